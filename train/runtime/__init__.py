"""What every program stands on: errors of a line, files, folders, processes, signals."""
