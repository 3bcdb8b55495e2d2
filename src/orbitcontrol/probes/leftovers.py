"""Processes that a check's command left behind, outside of its process group.

A command can start something in a session of its own (``setsid``, daemons), and one that ran inside a
container cannot be ended through Docker's API at all. Both still carry the environment that they were
started with, so every command gets a variable that names it, and whoever carries the name of a command
that is over is killed. Processes are looked through in a thread, seldom, and only while commands run.

Not found: what clears its environment as well, and what this user may not look at.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
from pathlib import Path

VARIABLE = "ORBIT_CHECK"

_SOON = 0.2
_LATER = 5.0
"""Seconds until the next look, after a command that was given up and after one that ended by itself."""

_LONGEST_ENVIRONMENT = 1 << 18


class Leftovers:
    """Names commands, and kills what those that are over have left."""

    def __init__(self) -> None:
        self._daemon = secrets.token_hex(6)
        self._name = re.compile(rf"(?:^|\0){VARIABLE}={self._daemon}\.(\d+)(?:\0|$)".encode())
        self._count = 0
        self._current: set[int] = set()
        self._look: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None

    def begin(self) -> int:
        """A command begins; its number."""
        self._count += 1
        self._current.add(self._count)
        return self._count

    def environment(self, number: int) -> dict[str, str]:
        """What the command must carry."""
        return {VARIABLE: f"{self._daemon}.{number}"}

    def end(self, number: int, *, by_itself: bool) -> None:
        """The command is over: whatever still carries its number is killed, soon if it was given up."""
        self._current.discard(number)
        self._look_in(_LATER if by_itself else _SOON)

    async def close(self) -> None:
        """Kills what there is of all commands."""
        if self._look is not None:
            self._look.cancel()
        if self._looking is not None:
            await self._looking
        self._current.clear()
        if self._count:
            await asyncio.to_thread(self._kill_all)

    def _look_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._look is not None:
            if self._look.when() <= loop.time() + seconds:
                return
            self._look.cancel()
        self._look = loop.call_later(seconds, self._begin_look)

    def _begin_look(self) -> None:
        self._look = None
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_through(), name="leftovers of checks")
        else:
            self._look_in(_SOON)

    async def _look_through(self) -> None:
        try:
            await asyncio.to_thread(self._kill_all)
        finally:
            self._looking = None

    def _kill_all(self) -> None:
        for entry in os.listdir("/proc"):  # noqa: PTH208 -- a Path for each process costs more than the look
            if entry.isdigit() and self._is_left(int(entry)):
                self._kill(int(entry))

    def _is_left(self, pid: int) -> bool:
        try:
            with Path(f"/proc/{pid}/environ").open("rb", buffering=0) as file:
                named = self._name.search(file.read(_LONGEST_ENVIRONMENT))
        except OSError:
            return False
        return named is not None and int(named[1]) not in self._current

    def _kill(self, pid: int) -> None:
        """Kills the process, and not another one that has got its number meanwhile."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return
        try:
            if self._is_left(pid):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except OSError:
            return
        finally:
            os.close(pidfd)
