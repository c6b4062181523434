"""Trains students whose weights are made from few shared numbers."""
