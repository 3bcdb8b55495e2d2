"""Virtual time: what is to happen, in order, and nothing between."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable


class Timeline:
    """The clock of a simulated world, and its dice: the same seed gives the same world."""

    def __init__(self, seed: str) -> None:
        self.now = 0.0
        self.events = 0
        self.dice = random.Random(seed)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._ids = itertools.count(1)

    def after(self, delay: float, happens: Callable[[], None]) -> None:
        """Calls ``happens`` after ``delay`` seconds."""
        heapq.heappush(self._heap, (self.now + max(delay, 0.0), next(self._order), happens))

    def between(self, shortest: float, longest: float) -> float:
        """Some length of time."""
        return self.dice.uniform(shortest, longest)

    def chance(self, probability: float) -> bool:
        """True in so many of all cases."""
        return self.dice.random() < probability

    def new_id(self, kind: str) -> str:
        """Another one each time."""
        return f"{kind}{next(self._ids):06d}"

    def step(self) -> None:
        """The next event."""
        self.now, _, happens = heapq.heappop(self._heap)
        self.events += 1
        happens()
