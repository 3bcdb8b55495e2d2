"""Frozen values in the words of the system. No I/O, no clocks, no decisions."""
