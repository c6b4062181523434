"""Trains shallow generators of image translation."""
