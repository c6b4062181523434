"""Slims networks to widths found by several rules, and compares them."""
