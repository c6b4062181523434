"""Rows, paired statistics, tables and curves that programs share."""
