"""Trains shallow students block by block on their teacher's representations."""
