"""Model files and exported formats: written, read, scored."""
