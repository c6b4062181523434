"""Parallel texts for translation, in batches of tokens."""
