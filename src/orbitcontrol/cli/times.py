"""Lengths of time as people give and read them: ``90s``, ``2m``, or a number of seconds."""

from __future__ import annotations

import time

from orbitcontrol.codec.times import since_epoch
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


def length(seconds: float) -> str:
    """A length of time for people: ``3.2s``, ``2m 5s``, ``3h 20m``."""
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours}h {minutes_left}m" if hours else f"{minutes}m {rest}s"


def age(since: str) -> str:
    """`` for 12s``, in minutes and hours when it is longer; "" for a time that cannot be read."""
    try:
        passed = max(round(time.time() - since_epoch(since)), 0)
    except ValueError:
        return ""
    for unit, size in (("h", 3600), ("m", 60)):
        if passed >= 2 * size:
            return f" for {passed // size}{unit}"
    return f" for {passed}s"


def _worded(length: float) -> str:
    return f"{length / 3600:g}h" if length >= 3600 else f"{length:g}s"
