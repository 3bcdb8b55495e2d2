"""Times as they stand in the store and in the engine's answers: RFC 3339."""

from __future__ import annotations

from datetime import UTC, datetime


def in_utc(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def since_epoch(time: str) -> float:
    """The other way, with what parts of a second there are. Raises ValueError for anything else."""
    return datetime.fromisoformat(time).timestamp()
