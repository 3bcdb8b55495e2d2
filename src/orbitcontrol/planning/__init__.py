"""Decisions. Pure functions from values to values: no I/O, and time and ids come as arguments."""
