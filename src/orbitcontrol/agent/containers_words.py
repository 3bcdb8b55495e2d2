"""The last words of containers that ended: the end of each one's log, asked for once.

They are read beside everything else, within a short time, and before the container is removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from orbitcontrol.codec.logtext import one_line
from orbitcontrol.errors import OrbitError
from orbitcontrol.log import Log
from orbitcontrol.ports import ContainerRuntime

_log = Log(__name__)

LINES = 20
SIZE = 2000
"""Characters of a log that are kept at most."""


class LastWords:
    """Reads logs of containers of one engine."""

    def __init__(self, runtime: ContainerRuntime) -> None:
        self._runtime = runtime
        self._reading: dict[str, asyncio.Task[None]] = {}

    def read(self, container_id: str, tell: Callable[[str], None], group: asyncio.TaskGroup) -> None:
        """Calls ``tell`` with the last words, on one line, as soon as they are known; never with none."""
        task = group.create_task(self._read(container_id, tell), name=f"log of {container_id[:12]}")
        self._reading[container_id] = task
        task.add_done_callback(lambda _: self._reading.pop(container_id, None))

    async def heard(self, container_ids: Iterable[str]) -> None:
        """Returns when none of these is being read any more: they may be removed."""
        tasks = [self._reading[one] for one in container_ids if one in self._reading]
        if tasks:
            await asyncio.wait(tasks)

    async def _read(self, container_id: str, tell: Callable[[str], None]) -> None:
        try:
            text = one_line(await self._runtime.log_tail(container_id, lines=LINES, size=SIZE))
        except OrbitError as error:  # a log driver that cannot be read, or a container that is gone
            _log.debug("log not read", container=container_id[:12], reason=error)
        except Exception:  # noqa: BLE001 -- a log that nobody foresaw must not end the daemon
            _log.error("log not read", exc_info=True, container=container_id[:12])
        else:
            if text:
                tell(text)
