"""The machine's record: what it is, what runs on it and what is wrong, for people elsewhere to read.

Written when it changes, at most once a second, under no lease: it stays when the machine goes, so
that ``orbitctl machines`` can still say what it was. On a load balancer with orphans it is also
written once a minute without a change: that these writes succeed is what the orphans' clocks run on
(``planning.orphans``).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from orbitcontrol import __version__
from orbitcontrol.agent.alarm import Alarm
from orbitcontrol.agent.board import Board, Wake
from orbitcontrol.agent.loop import forever
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import StoreError, UndecodableValue
from orbitcontrol.model.configuration import MachineIdentity
from orbitcontrol.model.state import MachineRecord, MachineStatus
from orbitcontrol.model.stored import KeyValue, Put
from orbitcontrol.planning.orphans import PROOF_EVERY, after_write
from orbitcontrol.planning.verdicts import held_of
from orbitcontrol.ports import Store

_SHORTEST_PAUSE = 1.0
_SETTLE = 3.0


class RecordLoop:
    """Keeps ``machines/<address>``. ``check`` is the ``host:port`` where ``/check`` answers.

    ``proof_every`` is how often it is written without a change while there are orphans, in seconds.
    """

    def __init__(
        self,
        *,
        board: Board,
        store: Store,
        keys: Keys,
        machine: MachineIdentity,
        check: str,
        proof_every: float = PROOF_EVERY,
    ) -> None:
        self._board = board
        self._store = store
        self._key = keys.machine(machine.address)
        self._machine = machine
        self._check = check
        self._proof_every = proof_every
        self._written: bytes | None = None
        self._has_resumed = False
        self._wake = Wake()
        self._proof = Alarm(self._wake, "proof")

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
        board.reloads.subscribe(self._wake)
        board.proxy_workers.subscribe(self._wake)
        board.problems.cell.subscribe(self._wake)
        board.orphaned.subscribe(self._wake)
        board.relisted.subscribe(self._wake)
        board.balances.subscribe(self._wake)
        board.trace.subscribe(self._wake)
        try:
            await forever("record", self._step, wake=self._wake, problems=board.problems)
        finally:
            self._proof.cancel()

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
            held=held_of(desired) if desired is not None else (),
            proxy=board.proxy_verdict.value,
            reload=board.reloads.value[-1] if board.reloads.value else None,
            proxy_workers=board.proxy_workers.value,
            instances=board.instances.value,
            problems=board.problems.cell.value,
            balances=tuple(sorted(board.balances.value)),
            changes=board.trace.changes,
        )

    def status(self) -> MachineStatus:
        """The record, and what is told on this machine alone."""
        record = self.current()
        fields = {field: getattr(record, field) for field in record.__struct_fields__}
        return MachineStatus(**fields, reloads=self._board.reloads.value)

    async def _step(self, reasons: frozenset[str]) -> None:
        if self._board.session.value is None:
            return
        try:
            await self._keep(look=bool(reasons & {"tick", "relisted"}))
        except StoreError:
            self._board.writes.set(None)
            raise

    async def _keep(self, *, look: bool) -> None:
        if self._written is None or look:
            stored = await self._store.get(self._key)
            self._written = None if stored is None else stored.value
            if stored is not None and not self._has_resumed:
                self._resume(stored)
            self._has_resumed = True
        record = encode(self.current())
        if record == self._written and not self._owes_proof():
            return
        self._written = None  # until the store has said yes, what it holds is not known
        begun = time.monotonic()
        await self._store.commit([], [Put(self._key, record)])
        self._board.writes.set(after_write(self._board.writes.value, at=begun))
        self._written = record
        await asyncio.sleep(_SHORTEST_PAUSE)
        if self._owes_proof():
            self._wake.ring("proof")

    def _resume(self, stored: KeyValue) -> None:
        """Takes over the trace of the daemon that was here before; one that cannot be read is lost."""
        with suppress(UndecodableValue):
            self._board.trace.resume(decode(stored.value, MachineRecord, key=stored.key).changes)

    def _owes_proof(self) -> bool:
        """True when a write is due although nothing changed; otherwise sees to a wake when it is."""
        if not self._board.orphaned.value:
            return False
        writes = self._board.writes.value
        if writes is None or (left := writes.until + self._proof_every - time.monotonic()) <= 0:
            return True
        self._proof.within(left)
        return False
