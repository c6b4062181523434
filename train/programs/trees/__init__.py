"""Compresses classifiers of tables into one small decision tree."""
