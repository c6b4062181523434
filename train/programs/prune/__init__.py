"""Prunes students by several scores, at once and step by step, and packs what is left."""
