"""Thin networks by widths of several rules."""
