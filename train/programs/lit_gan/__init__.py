"""Shallow generators of image translation."""
