"""Text data sets with a class for each text, read and checked."""
