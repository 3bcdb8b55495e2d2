"""The daemon: named loops that observe, plan and apply, joined by a board of cells."""
