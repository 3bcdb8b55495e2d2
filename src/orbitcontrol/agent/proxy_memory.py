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
    """``state`` as it was last saved; nothing before ``load``."""

    def __init__(self, files: StateFiles) -> None:
        self._remembered = Remembered(files, _STATE, ProxyState, ProxyState())
        self.state = ProxyState()

    async def load(self) -> None:
        """Reads what an earlier daemon saved."""
        self.state = await asyncio.to_thread(self._remembered.load)

    async def remember(self, **changes: object) -> None:
        """Saves what differs. Raises ``OrbitError``, and keeps the state, when the disk does not take it."""
        state = structs.replace(self.state, **changes)
        if state != self.state:
            await asyncio.to_thread(self._remembered.save, state)
            self.state = state

    async def note_orphans(self, orphans: Sequence[Orphan]) -> str:
        """Keeps the orphans for this daemon, and saves them if the disk takes it; why it did not.

        What is lost with them is time that was counted: an orphan then stays longer. That must not
        keep other endpoints from being routed to.
        """
        try:
            await self.remember(orphans=tuple(orphans))
        except OrbitError as error:
            _log.warning("the orphans' clocks could not be saved", reason=error)
            self.state = structs.replace(self.state, orphans=tuple(orphans))
            return str(error)
        return ""
