"""How many machines of a service may be out together."""

from __future__ import annotations


def slots_of(max_parallel: int | str, *, machines: int) -> int:
    """``MaxParallel`` as a number: a percentage of the machines is rounded down; at least 1."""
    if isinstance(max_parallel, str):
        return max(1, machines * int(max_parallel.removesuffix("%")) // 100)
    return max_parallel
