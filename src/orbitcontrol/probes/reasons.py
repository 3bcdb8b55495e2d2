"""From an exception of asking to the answer of a check.

One kind is no answer at all: when this machine itself has nothing left to ask with, all checks would
fail at once and healthy services would be taken out. That counts for nothing.
"""

from __future__ import annotations

import errno
import socket

from orbitcontrol.model.runs import ProbeResult
from orbitcontrol.systemwords import plain

_LONGEST = 300

_OUR_OWN = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL))
"""No file descriptors, memory, buffers or local ports left: said by this machine, of itself."""


def failed(where: str, why: str) -> ProbeResult:
    """The check failed at ``where``, for what came back."""
    return ProbeResult(passed=False, detail=f"{where}: {printable(why)}")


def failed_by_system(where: str, error: OSError) -> ProbeResult:
    """The answer for an error of the operating system."""
    if error.errno in _OUR_OWN and not isinstance(error, socket.gaierror):
        why = f"this machine cannot ask: {plain(error)}"
        return ProbeResult(passed=False, detail=f"{where}: {why}", counts=False)
    return failed(where, plain(error))


def printable(text: str, *, longest: int = _LONGEST) -> str:
    """One line without control characters: the beginning and the end of what is too long."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    if len(line) <= longest:
        return line
    half = longest // 2
    return f"{line[:half]} … {line[-half:]}"
