"""The machine's record: what it is, what runs on it and what is wrong, for people elsewhere to read.

Written when it changes, at most once a second, under no lease: it stays when the machine goes, so
that ``orbitctl machines`` can still say what it was.
"""

from __future__ import annotations

import asyncio

from orbitcontrol import __version__
from orbitcontrol.agent.board import Board, Wake
from orbitcontrol.agent.loop import forever
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import encode
from orbitcontrol.model.configuration import MachineIdentity
from orbitcontrol.model.state import MachineRecord
from orbitcontrol.model.stored import Put
from orbitcontrol.ports import Store

_SHORTEST_PAUSE = 1.0
_SETTLE = 3.0


class RecordLoop:
    """Keeps ``machines/<address>``. ``check`` is the ``host:port`` where ``/check`` answers."""

    def __init__(
        self, *, board: Board, store: Store, keys: Keys, machine: MachineIdentity, check: str
    ) -> None:
        self._board = board
        self._store = store
        self._key = keys.machine(machine.address)
        self._machine = machine
        self._check = check
        self._written: bytes | None = None
        self._wake = Wake()

    async def run(self) -> None:
        """Never returns.

        Waits at first until all services are judged, so that a start which changes nothing does not
        show in the record either.
        """
        board = self._board
        await board.registered.wait_for(bool, timeout=_SETTLE)
        board.session.subscribe(self._wake)
        board.desired.subscribe(self._wake)
        board.instances.subscribe(self._wake)
        board.proxy_verdict.subscribe(self._wake)
        board.problems.cell.subscribe(self._wake)
        await forever("record", self._step, wake=self._wake, problems=board.problems)

    def current(self) -> MachineRecord:
        """The record as it is now."""
        board = self._board
        desired = board.desired.value
        return MachineRecord(
            tags=self._machine.tags,
            availability_zone=desired.machine.zone if desired is not None else self._machine.zone,
            version=__version__,
            check=self._check,
            epoch=desired.epoch if desired is not None else "",
            generation=desired.generation if desired is not None else 0,
            holding=desired.holding if desired is not None else "",
            proxy=board.proxy_verdict.value,
            instances=board.instances.value,
            problems=board.problems.cell.value,
        )

    async def _step(self, reasons: frozenset[str]) -> None:
        if self._board.session.value is None:
            return
        if self._written is None or "tick" in reasons:
            stored = await self._store.get(self._key)
            self._written = None if stored is None else stored.value
        record = encode(self.current())
        if record == self._written:
            return
        self._written = None  # until the store has said yes, what it holds is not known
        await self._store.commit([], [Put(self._key, record)])
        self._written = record
        await asyncio.sleep(_SHORTEST_PAUSE)
