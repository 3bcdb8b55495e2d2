"""What a daemon answers over HTTP."""
