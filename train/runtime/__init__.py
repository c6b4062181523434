"""The base of every program: one-line errors, files, folders, processes, signals."""
