"""What programs write for terminals, as one line that may stand in a message.

Escape sequences (ECMA-48) and control characters are left out: a log must not be able to move the
cursor of whoever reads ``orbitctl status``.
"""

from __future__ import annotations

import re

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def one_line(text: str) -> str:
    """The lines that say something, joined by `` | ``."""
    lines = (_CONTROLS.sub(" ", line).strip() for line in _ESCAPES.sub("", text).splitlines())
    return " | ".join(line for line in lines if line)
