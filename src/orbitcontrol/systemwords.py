"""What the operating system says of a failure, in words for a message."""

from __future__ import annotations

import os
import socket


def plain(error: OSError) -> str:
    """The system's own words: Python's and asyncio's repeat numbers and addresses."""
    if isinstance(error, socket.gaierror):
        return f"the name is not known: {error.strerror}"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
