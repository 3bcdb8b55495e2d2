"""Several ranges of the store, listed and watched until something has come about.

Nothing is polled. A watch that ends, because the store went away or has forgotten the changes, is begun
again with a listing: what was heard stays until then, and a store that is away is no news.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from orbitcontrol.errors import StoreError
from orbitcontrol.model.stored import KeyValue, Range
from orbitcontrol.ports import Store

Seen = Mapping[Range, Mapping[str, KeyValue]]
"""The keys of each range, as they were last heard of."""

_PAUSE = 0.5
"""Seconds before a watch that ended is begun anew."""

_AGAIN = 1.0
"""Seconds after which what is known is looked at again: how long it has been so may count."""


async def watch_until(
    store: Store,
    *ranges: Range,
    look: Callable[[Seen], bool],
    timeout: float,
    trouble: Callable[[StoreError], None] = lambda _: None,
) -> bool:
    """Shows ``look`` the ranges whenever they change, until it says True or ``timeout`` seconds are over.

    It is asked at first when all of them have been listed, and each second. Returns what it said last.
    ``trouble`` is told when the store does not answer.
    """
    watching = _Watching(store, trouble)
    try:
        async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
            tasks = [group.create_task(watching.follow(each), name=f"watch {each.start}") for each in ranges]
            while len(watching.seen) < len(ranges) or not look(watching.seen):
                await watching.news()
            for task in tasks:
                task.cancel()
    except TimeoutError:
        return False
    return True


class _Watching:
    def __init__(self, store: Store, trouble: Callable[[StoreError], None]) -> None:
        self.seen: dict[Range, dict[str, KeyValue]] = {}
        self._store = store
        self._trouble = trouble
        self._news = asyncio.Event()

    async def news(self) -> None:
        """Returns when something has changed, or it is time to look in any case."""
        try:
            async with asyncio.timeout(_AGAIN):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()

    async def follow(self, range: Range) -> None:
        """Lists and watches one range, again and again. Never returns."""
        while True:
            try:
                listing = await self._store.read(range)
                self.seen[range] = {item.key: item for item in listing.ranges[0]}
                self._news.set()
                async with self._store.watch(range, after=listing.revision) as stream:
                    async for changes in stream:
                        for event in changes.events:
                            if event.now is None:
                                self.seen[range].pop(event.key, None)
                            else:
                                self.seen[range][event.key] = event.now
                        self._news.set()
            except StoreError as error:
                self._trouble(error)
                await asyncio.sleep(_PAUSE)
