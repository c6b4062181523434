"""Distils a large translation Transformer into small ones, and translates with them."""
