"""How long a load balancer is careful with what its store says, and since when.

It learns in two ways that the store went back. Its mirrors notice when a listing cannot follow on what
they saw (``agent.mirror``), before they show any of it; that covers a backup put back under a running
daemon. The configuration loop holds when the generation went back or the epoch changed: that is in
the very configuration that the proxy loop acts on, so that a daemon that was off meanwhile is careful
from its first look. What is believed then is decided by ``planning.restored``.
"""

from __future__ import annotations

import math
import time

from orbitcontrol.agent.alarm import Alarm
from orbitcontrol.agent.board import Board
from orbitcontrol.log import Log
from orbitcontrol.planning.restored import Doubt, doubt_of, unproven
from orbitcontrol.planning.rotation import Place, Routes, Sight

_log = Log(__name__)

_TTLS = 2


class Caution:
    """``ttl`` is that of the leases, in seconds. ``alarm`` rings when caution is over."""

    def __init__(self, *, board: Board, ttl: float, alarm: Alarm) -> None:
        self._board = board
        self._lasts = _TTLS * ttl
        self._alarm = alarm
        self._holding = ""
        self._held_at = -math.inf
        self._doubt: Doubt | None = None

    def is_due(self) -> bool:
        """True while the store has to be read, and ``unproven`` asked, before anything is believed."""
        now, desired = time.monotonic(), self._board.desired.value
        holding = desired.holding if desired is not None else ""
        if holding != self._holding:
            self._holding = holding
            self._held_at = now if holding else -math.inf
        left = max(self._held_at, self._board.history.went_back.value) + self._lasts - now
        if left <= 0:
            if self._doubt is not None:
                _log.info("the store is believed again, caution is over")
            self._doubt = None
            return False
        self._alarm.within(left)
        return True

    def unproven(self, sight: Sight, *, known: Routes) -> frozenset[Place]:
        """The places about which this reading is not believed."""
        if self._doubt is None or sight.revision < self._doubt.since:
            _log.warning("endpoints of the past are kept out", seconds=self._lasts, revision=sight.revision)
            self._doubt = doubt_of(sight, known=known)
        return unproven(sight, known=known, doubt=self._doubt)
