"""Writes, reads and scores model files and exported formats."""
