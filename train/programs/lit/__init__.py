"""Shallow students, trained block by block on what their teacher is given."""
