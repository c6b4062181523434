"""Quantized students, packed, read back and scored."""
