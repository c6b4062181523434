"""Benchmarks: all contestants side by side in one run."""
