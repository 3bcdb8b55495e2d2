"""How benchmarks print what they measured."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


def report(what: str, seconds: Sequence[float], *, reach: str) -> None:
    """One line: the runs' median and extremes in milliseconds, and what was to be reached."""
    low, middle, high = (round(value * 1000) for value in (min(seconds), median(seconds), max(seconds)))
    print(f"{what}: median {middle} ms, {low} to {high} ms in {len(seconds)} runs (to reach: {reach})")
