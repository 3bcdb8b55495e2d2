"""A range of the store as a live value: list, watch, and list again whenever in doubt.

Whatever ends a watch (a broken connection, silence, compaction), the answer is the same: list the
range at one revision, replace the value, watch from there. So is the answer to the slow tick,
which exists because a watch can be silent for ever on a store that was swapped underneath it.
While the store cannot be reached the value stays as it was last known.

Every listing is held against what was seen before, by this mirror and by all others of the daemon: a
store that went back is noted in ``history`` before anybody can see what it says.
"""

from __future__ import annotations

import asyncio
import random

from msgspec import Struct

from orbitcontrol.agent.board import Cell, History, Problems
from orbitcontrol.agent.loop import TICK
from orbitcontrol.errors import Compacted, OrbitError, UsageError
from orbitcontrol.log import Log
from orbitcontrol.model.stored import Changes, KeyValue, Range
from orbitcontrol.planning.restored import rewritten
from orbitcontrol.ports import Store

_log = Log(__name__)

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


class Mirrored(Struct, frozen=True):
    """The keys of a range as they were together at ``revision``."""

    revision: int
    entries: dict[str, KeyValue]


class Mirror:
    """Keeps ``cell`` equal to a range of the store. None until it was listed for the first time.

    ``relisted`` counts the listings that were made because a watch had ended unasked.
    """

    def __init__(
        self,
        name: str,
        *,
        store: Store,
        range: Range,
        problems: Problems,
        history: History,
        relisted: Cell[int] | None = None,
    ) -> None:
        self.cell: Cell[Mirrored | None] = Cell(name, None)
        self._name = name
        self._store = store
        self._range = range
        self._problems = problems
        self._history = history
        self._relisted = relisted
        self._is_broken = False
        self._pause = _FIRST_PAUSE

    async def run(self) -> None:
        """Never returns; cancel it to end the watch."""
        while True:
            try:
                async with asyncio.timeout(TICK * random.uniform(0.8, 1.2)):
                    await self._follow()
            except TimeoutError:
                continue
            except Compacted:
                self._is_broken = True
                _log.info("watch fell behind, listing again", watch=self._name)
            except OrbitError as error:
                if isinstance(error, UsageError) and self.cell.value is None:
                    raise  # wrong from the start; later it may be a certificate that is being replaced
                self._is_broken = True
                self._problems.report(f"mirror {self._name}", {"store": str(error)})
                _log.debug("watch ended, listing again", watch=self._name, reason=error)
                await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
                self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    async def _follow(self) -> None:
        """Lists, then applies changes until something ends the watch."""
        furthest = self._history.furthest
        listing = await self._store.read(self._range)
        known = self.cell.value
        self._history.saw(
            listing.revision,
            before=furthest,
            rewritten=known is not None and rewritten(known.entries, at=known.revision, listing=listing),
        )
        async with self._store.watch(self._range, after=listing.revision) as stream:
            self._pause = _FIRST_PAUSE
            self._problems.report(f"mirror {self._name}", {})
            self.cell.set(Mirrored(listing.revision, {entry.key: entry for entry in listing.ranges[0]}))
            if self._is_broken and self._relisted is not None:
                self._relisted.set(self._relisted.value + 1)
            self._is_broken = False
            async for changes in stream:
                self._apply(changes)

    def _apply(self, changes: Changes) -> None:
        self._history.saw(changes.revision)
        known = self.cell.value
        entries = dict(known.entries) if known is not None else {}
        for event in changes.events:
            if event.now is None:
                entries.pop(event.key, None)
            else:
                entries[event.key] = event.now
        self.cell.set(Mirrored(changes.revision, entries))
