"""Image data sets, read and checked."""
