"""A wake that rings by itself: at the earliest of the moments that were asked for."""

from __future__ import annotations

import asyncio

from orbitcontrol.agent.board import Wake


class Alarm:
    """Rings ``wake`` once; whoever needs another look later asks again then."""

    def __init__(self, wake: Wake, reason: str) -> None:
        self._wake = wake
        self._reason = reason
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float) -> None:
        """Rings in so many seconds at the latest."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._ring)

    def cancel(self) -> None:
        """Forgets what was asked for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._wake.ring(self._reason)
