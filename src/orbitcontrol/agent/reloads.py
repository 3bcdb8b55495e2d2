"""Reloads of HAProxy: when one may happen, and a ledger of those that did.

A reload costs: a new worker, and an old one that stays until its connections end. So changes that
need one are bundled: it waits until they pause for ``quiet`` seconds, but never longer than
``longest``. Each is written down with its reason, how much it changed, how long it took and how it
ended. The ledger is bounded and outlives the daemon.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from orbitcontrol.agent.board import Board
from orbitcontrol.agent.remembered import Remembered
from orbitcontrol.codec.times import in_utc
from orbitcontrol.errors import HAProxyRejected, OrbitError
from orbitcontrol.log import Log
from orbitcontrol.model.state import Reload
from orbitcontrol.ports import StateFiles

_log = Log(__name__)

KEPT = 100
"""How many reloads the ledger has."""

_LEDGER = "reloads.json"


class Reloads:
    """Bundles reloads and records them on the board. ``quiet`` and ``longest`` are seconds."""

    def __init__(self, *, board: Board, files: StateFiles, quiet: float, longest: float) -> None:
        self._board = board
        self._ledger = Remembered(files, _LEDGER, tuple[Reload, ...], ())
        self._quiet = quiet
        self._longest = longest
        self._first: float | None = None
        self._changed = 0.0
        self._text = ""
        self._is_asked = False

    async def load(self) -> None:
        """Reads what an earlier daemon recorded."""
        self._board.reloads.set(await asyncio.to_thread(self._ledger.load))

    def pause(self, text: str) -> float:
        """Seconds to wait before this text is loaded; 0 when its time has come."""
        now = time.monotonic()
        self._is_asked = True
        if self._first is None:
            self._first = self._changed = now
        elif text != self._text:
            self._changed = now
        self._text = text
        return max(min(self._changed + self._quiet, self._first + self._longest) - now, 0.0)

    def settle(self) -> None:
        """A step is over: what it has not asked to load waits no longer, and the next reload waits anew."""
        if not self._is_asked:
            self._first, self._text = None, ""
        self._is_asked = False

    @asynccontextmanager
    async def recorded(self, reason: str, *, size: int) -> AsyncIterator[None]:
        """Records the reload that its block is."""
        at, begun = in_utc(time.time()), time.monotonic()
        outcome: Literal["loaded", "refused", "failed"] = "failed"
        try:
            yield
            outcome = "loaded"
        except HAProxyRejected:
            outcome = "refused"
            raise
        finally:
            self._first, self._text = None, ""
            entry = Reload(
                at=at,
                reason=reason,
                size=size,
                seconds=round(time.monotonic() - begun, 3),
                outcome=outcome,
            )
            _log.info("HAProxy reload", reason=reason, outcome=outcome, seconds=entry.seconds, size=size)
            await self._keep(entry)

    async def _keep(self, entry: Reload) -> None:
        ledger = (*self._board.reloads.value, entry)[-KEPT:]
        self._board.reloads.set(ledger)
        try:
            await asyncio.to_thread(self._ledger.save, ledger)
        except OrbitError as error:
            _log.warning("the ledger of reloads could not be saved", reason=error)
