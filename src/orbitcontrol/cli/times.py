"""Lengths of time as people give them on the command line: ``90s``, ``2m``, or a number of seconds."""

from __future__ import annotations

from orbitcontrol.errors import UsageError
from orbitcontrol.model.durations import Duration


def seconds(text: str, *, flag: str, least: float, most: float) -> float:
    """The text's seconds. Raises ``UsageError`` naming the flag unless they are between the two."""
    try:
        found = float(text) if text.isdigit() else float(Duration.parse(text))
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error
    if not least <= found <= most:
        raise UsageError(f"{flag}: {text} is not between {_worded(least)} and {_worded(most)}")
    return found


def _worded(length: float) -> str:
    return f"{length / 3600:g}h" if length >= 3600 else f"{length:g}s"
