"""What a load balancer remembers over a restart of its daemon, on the disk before it is relied on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import structs

from orbitcontrol.agent.remembered import Remembered
from orbitcontrol.errors import OrbitError
from orbitcontrol.log import Log
from orbitcontrol.planning.orphans import Orphan
from orbitcontrol.planning.proxy import ProxyState
from orbitcontrol.ports import StateFiles

_log = Log(__name__)

_STATE = "haproxy.json"


class ProxyMemory:
    """``state`` as it is relied on: nothing before ``load``, then what was saved last.

    Orphans alone may be newer than what is on the disk.
    """

    def __init__(self, files: StateFiles) -> None:
        self._remembered = Remembered(files, _STATE, ProxyState, ProxyState())
        self.state = ProxyState()
        self._unsaved = False

    async def load(self) -> None:
        """Reads what an earlier daemon saved."""
        self.state = await asyncio.to_thread(self._remembered.load)

    async def remember(self, **changes: object) -> None:
        """Saves what differs. Raises ``OrbitError``, and keeps the state, when the disk does not take it."""
        state = structs.replace(self.state, **changes)
        if state != self.state:
            await self._save(state)

    async def note_orphans(self, orphans: Sequence[Orphan]) -> str:
        """Keeps the orphans for this daemon, and saves them if the disk takes it; why it did not.

        What is lost with them is time that was counted: an orphan then stays longer. That must not
        keep other endpoints from being routed to.
        """
        state = structs.replace(self.state, orphans=tuple(orphans))
        if state == self.state and not self._unsaved:
            return ""
        try:
            await self._save(state)
        except OrbitError as error:
            _log.warning("the orphans' clocks could not be saved", reason=error)
            self.state, self._unsaved = state, True
            return str(error)
        return ""

    async def _save(self, state: ProxyState) -> None:
        await asyncio.to_thread(self._remembered.save, state)
        self.state, self._unsaved = state, False
