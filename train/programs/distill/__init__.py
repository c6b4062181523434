"""Trains students of any activation under one teacher."""
