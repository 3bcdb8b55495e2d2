"""Hundreds of machines in one process, under virtual time: the real planning, and everything else played."""
