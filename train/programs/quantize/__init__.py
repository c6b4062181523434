"""Trains quantized students, packs them, reads them back and scores them."""
