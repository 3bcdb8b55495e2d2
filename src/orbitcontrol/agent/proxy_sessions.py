"""Whether sessions have ended: what HAProxy says twice, a moment apart.

Once is not enough: a request is for an instant in no server's count while HAProxy passes it on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from typing import TypeVar

K = TypeVar("K")

BETWEEN = 0.02
"""Seconds between the two readings."""


async def ended(
    places: Collection[K], sessions: Callable[[AbstractSet[K]], Awaitable[Mapping[K, int]]]
) -> frozenset[K]:
    """Those of the places that ``sessions`` counts none for, twice. Nothing is asked where there are none."""
    left = frozenset(places)
    for attempt in range(2):
        if not left:
            break
        if attempt:
            await asyncio.sleep(BETWEEN)
        counted = await sessions(left)
        left = frozenset(place for place in left if counted.get(place, 0) == 0)
    return left
