"""The programs that train or measure: one folder each."""
