"""Text and bytes to values and back. Pure: no I/O, no clocks."""
