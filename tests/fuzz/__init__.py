"""Hostile input of every kind: a command ends with exit code 0 or 2 and says one line at most."""
