"""The programs, a page each."""
