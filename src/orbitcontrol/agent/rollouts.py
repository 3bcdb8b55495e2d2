"""The rollouts of this machine's services: one deployer each, woken when something of it changes.

Each deployer (``agent.rollout_deployer``) says what its service's containers are to be, which of its
endpoints are to drain, and whether it has the service in hand; this loop puts that on the board for the
others. Before a deployer has said anything for the first time, and in the middle of a rollout when the store
is away, the service runs as this machine remembers it: a container that ends then is started again, in the
revision and configuration that were completed last.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from orbitcontrol.agent.board import Board, Cell, Directives, Guard, Wake
from orbitcontrol.agent.gone import Asker, GoneProofs
from orbitcontrol.agent.loop import forever
from orbitcontrol.agent.rollout_containers import Hands
from orbitcontrol.agent.rollout_deployer import Deployer
from orbitcontrol.agent.rollout_memory import RolloutMemory
from orbitcontrol.agent.rollout_sight import Facts, settled_of, target_of
from orbitcontrol.agent.rollout_store import RolloutStore
from orbitcontrol.codec.keys import Keys
from orbitcontrol.model.configuration import Desired
from orbitcontrol.model.runs import RunId
from orbitcontrol.planning.container_specs import WantedContainer
from orbitcontrol.planning.rollout_aims import aim_of
from orbitcontrol.planning.rollout_directives import begun
from orbitcontrol.planning.rollout_steps import Directive
from orbitcontrol.planning.rollouts import Local, Shared
from orbitcontrol.ports import StateFiles, Store

_OWNER = "rollouts"
_PATIENCE = 2.0
"""Seconds that deployers have to read the store before what is remembered counts."""

_DOUBTS = frozenset({"tick", "relisted"})


class RolloutsLoop:
    """Keeps a deployer for each service. ``ttl`` is that of the machine's lease, in seconds."""

    def __init__(
        self,
        *,
        board: Board,
        store: Store,
        keys: Keys,
        hands: Hands,
        connector: Asker,
        files: StateFiles,
        ttl: float,
        new_id: Callable[[], str],
    ) -> None:
        self._board = board
        self._store = store
        self._keys = keys
        self._hands = hands
        self._ttl = ttl
        self._new_id = new_id
        self._memory = RolloutMemory(files)
        self._facts = Facts(board)
        self._gone = GoneProofs(connector=connector, files=files, problems=board.problems, ttl=ttl)
        self._checks: dict[str, str] = {}
        self._wake = Wake()
        self._deployers: dict[str, Deployer] = {}
        self._patient_until = 0.0

    async def run(self) -> None:
        """Never returns."""
        board, cells = self._board, self._board.rollouts
        sources: tuple[Cell[Any], ...] = (
            board.desired,
            board.session,
            board.publisher,
            board.runs,
            board.verdicts,
            board.instances,
            board.relisted,
            cells.standing,
            cells.own,
            cells.publications,
        )
        for cell in sources:
            cell.subscribe(self._wake)
        self._patient_until = time.monotonic() + _PATIENCE
        asyncio.get_running_loop().call_later(_PATIENCE, self._wake.ring, "patience is over")
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._gone.run(), name="gone")
            await forever(_OWNER, self._step, wake=self._wake, problems=board.problems)

    async def _step(self, reasons: frozenset[str]) -> None:
        desired = self._board.desired.value
        if desired is None:
            return
        own = {one.key.service for one in self._board.rollouts.own.value or ()}
        for service in sorted({*desired.services, *own, *self._memory.services} - self._deployers.keys()):
            self._deployers[service] = self._deployer(service, desired.machine.address)
        for deployer in self._deployers.values():
            deployer.look(doubt=bool(reasons & _DOUBTS))
        self._tell(desired)

    def _deployer(self, service: str, address: str) -> Deployer:
        wake = Wake()
        store = RolloutStore(
            service,
            store=self._store,
            keys=self._keys,
            board=self._board,
            address=address,
            checks=self._checks,
            gone=self._gone,
            wake=wake,
            new_id=self._new_id,
        )
        deployer = Deployer(
            service,
            board=self._board,
            store=store,
            hands=self._hands,
            memory=self._memory,
            facts=self._facts,
            wake=wake,
            ttl=self._ttl,
            changed=self._changed,
        )
        self._group.create_task(deployer.run(self._group), name=f"rollout of {service}")
        return deployer

    def _changed(self) -> None:
        desired = self._board.desired.value
        if desired is not None:
            self._tell(desired)

    def _tell(self, desired: Desired) -> None:
        """Puts on the board what all deployers say."""
        cells = self._board.rollouts
        aims: dict[str, tuple[WantedContainer, ...]] = {}
        runs: dict[RunId, Directive] = {}
        guards: dict[str, Guard] = {}
        in_hand: set[str] = set()
        cut_off: set[str] = set()
        for service, deployer in self._deployers.items():
            told = deployer.told
            if told is None or desired.holding or service in desired.held:
                if told is not None or time.monotonic() >= self._patient_until:
                    aims[service] = self._remembered_aim(service, desired)
                runs |= begun(self._facts.endpoints(service))
                continue
            aims[service] = told.plan.aim
            if deployer.is_cut_off:
                aims[service] = self._remembered_aim(service, desired)
                cut_off.add(service)
            runs |= told.plan.directives
            if told.guard is not None:
                guards[service] = told.guard
            if told.plan.in_hand:
                in_hand.add(service)
        session = self._board.session.value
        cells.in_hand.set(frozenset(in_hand))
        cells.cut_off.set(frozenset(cut_off))
        cells.aims.set(aims)
        if session is not None and self._board.publisher.value == session.id:
            cells.directives.set(Directives(runs=runs, guards=guards))
        self._board.problems.report(
            _OWNER, {f"service {name}": one.trouble for name, one in self._deployers.items() if one.trouble}
        )

    def _remembered_aim(self, service: str, desired: Desired) -> tuple[WantedContainer, ...]:
        """What the service is to run as far as this machine can tell without the store."""
        address, standing = desired.machine.address, self._board.rollouts.standing.value
        if standing is not None and standing.drain is not None:
            return ()
        local = Local(
            address=address,
            session="",
            service=service,
            bound=service in desired.services,
            target=target_of(service, self._facts, desired, standing),
            settled=settled_of(service, self._facts, self._memory, address),
            progress=self._memory.of(service).progress,
            own=self._facts.own(service),
        )
        return aim_of(local, Shared(revision=0), in_slot=False)
