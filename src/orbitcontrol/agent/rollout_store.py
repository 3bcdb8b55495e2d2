"""What the rollouts loop reads from the store and writes to it, for one service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

from msgspec import structs

from orbitcontrol.agent.batches import batches
from orbitcontrol.agent.board import Board, Cell, Wake
from orbitcontrol.agent.gone import GoneProofs
from orbitcontrol.agent.mirror import Mirror, Mirrored
from orbitcontrol.agent.rollout_sight import boot_time
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.times import in_utc
from orbitcontrol.model.stored import KeyValue, Range
from orbitcontrol.planning.rollout_reading import Expected, checks_of, healthy_workers, ranges, shared_of
from orbitcontrol.planning.rollout_turns import peers_of
from orbitcontrol.planning.rollout_writes import REWRITES, Stamp, Writing, transaction
from orbitcontrol.planning.rollouts import Local, Shared
from orbitcontrol.ports import Store

_AT_ONCE = 100
"""Records of machines that are read in one transaction."""


class RolloutStore:
    """``wake`` is rung when something that is watched changes.

    ``address`` is this machine's. ``checks`` says where the daemons of machines listen that had to be known,
    by their records; all services share it.
    """

    def __init__(
        self,
        service: str,
        *,
        store: Store,
        keys: Keys,
        board: Board,
        address: str,
        checks: dict[str, str],
        gone: GoneProofs,
        wake: Wake,
        new_id: Callable[[], str],
    ) -> None:
        self._service = service
        self._store = store
        self._keys = keys
        self._board = board
        self._wake = wake
        self._gone = gone
        self._new_id = new_id
        self._address = address
        self._checks = checks
        gone.judgements.subscribe(wake)
        self._watches: dict[Range, asyncio.Task[None]] = {}

    @property
    def slots(self) -> Range:
        """To be watched by whoever waits for a slot."""
        return self._keys.slots(self._service)

    def confirmations(self, endpoint_id: str) -> Range:
        """To be watched by whoever waits for load balancers to confirm something of the endpoint."""
        return Range.prefix(f"{self._keys.acks(self._service).start}{endpoint_id}/")

    def slot_key(self, number: int) -> str:
        """The key of a slot of the service."""
        return self._keys.slot(self._service, number)

    async def read(self, local: Local, *, instances: int) -> Shared:
        """Everything that machines share of the service, at one revision. Raises StoreError."""
        begun = boot_time()
        reading = await self._store.read(*ranges(self._keys, self._service))
        expected = Expected(instances=instances)
        shared = shared_of(self._keys, reading, expected=expected)
        if not local.has_endpoint and shared.roster.progress:
            records = await self._records(shared.roster.progress)
            expected = Expected(instances=instances, healthy=healthy_workers(records, self._service))
            shared = shared_of(self._keys, reading, expected=expected)
        gone = await self._proven_gone(shared, begun)
        return structs.replace(shared, roster=structs.replace(shared.roster, gone=gone)) if gone else shared

    async def _proven_gone(self, shared: Shared, begun: float) -> frozenset[str]:
        """Who needs not be waited for; who cannot be told to be gone is named among the problems."""
        holders = {held.slot.machine for held in shared.slots.values()}
        waited = shared.waited_for()
        met = holders | set(peers_of(self._address, shared.roster.progress))
        unknown = (met | waited) - self._checks.keys() - shared.balancers.keys()
        self._checks.update(checks_of(await self._records(unknown)))
        checks = {name: one.check for name, one in shared.balancers.items()}
        checks |= {name: self._checks[name] for name in met & self._checks.keys()}
        self._gone.meet(self._service, checks)
        judged = self._gone.look(
            waited,
            begun=begun,
            alive=shared.alive,
            balancers=shared.balancers,
            checks={**self._checks, **checks},
        )
        self._board.problems.report(
            f"gone {self._service}",
            {f"machine {name}": one.reason for name, one in judged.items() if one.state == "unknown"},
        )
        return frozenset(name for name, one in judged.items() if one.state == "gone")

    async def _records(self, machines: Collection[str]) -> list[KeyValue]:
        found: list[KeyValue] = []
        for few in batches(sorted(machines), _AT_ONCE):
            reading = await self._store.read(*(Range.single(self._keys.machine(address)) for address in few))
            found += (item for items in reading.ranges for item in items)
        return found

    async def write(self, action: Writing, local: Local, shared: Shared) -> None:
        """Carries out a step that is a transaction. Raises StoreConflict when it is to be planned anew."""
        deployments: tuple[KeyValue, ...] = ()
        if isinstance(action, REWRITES):
            reading = await self._store.read(self._keys.deployments_of(self._service))
            [deployments] = reading.ranges
        stamp = Stamp(id=self._new_id(), time=in_utc(time.time()), user=f"orbitctl daemon {local.address}")
        made = transaction(action, self._keys, local, shared, stamp=stamp, deployments=deployments)
        await self._store.commit(made.compares, made.operations)

    def watch(self, group: asyncio.TaskGroup, *ranges: Range) -> None:
        """Watches these and nothing else."""
        for gone in self._watches.keys() - set(ranges):
            self._watches.pop(gone).cancel()
        for new in set(ranges) - self._watches.keys():
            mirror = Mirror(
                f"turns of {self._service}",
                store=self._store,
                range=new,
                problems=self._board.problems,
                history=self._board.history,
            )
            is_queue = new == self.slots
            mirror.cell.subscribe(_Freed(mirror.cell, self._wake) if is_queue else self._wake)
            self._watches[new] = group.create_task(mirror.run(), name=f"turns of {self._service}")


class _Freed(Wake):
    """Rings on only when a key has gone: those who wait need not hear of each step of those who hold one."""

    def __init__(self, cell: Cell[Mirrored | None], wake: Wake) -> None:
        super().__init__()
        self._cell = cell
        self._onward = wake
        self._before = 0

    def ring(self, reason: str) -> None:
        listed = len(self._cell.value.entries) if self._cell.value is not None else 0
        if listed < self._before or listed == 0:
            self._onward.ring(reason)
        self._before = listed
