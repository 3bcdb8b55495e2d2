"""A simulated machine: the loops of a daemon around the real planning of rollouts.

It does what the daemon does with a plan: transactions of the store, steps in Docker, directives for its
endpoints, and it starts what the plan aims at while the plan is not in hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import structs

from orbitcontrol.codec.values import decode
from orbitcontrol.errors import StoreConflict, StoreError
from orbitcontrol.model.containers import ObservedContainer
from orbitcontrol.model.rollouts import Progress
from orbitcontrol.model.stored import Delete, KeyValue, Put, Reading, Unchanged
from orbitcontrol.planning.backoff import Backoff, ended
from orbitcontrol.planning.container_specs import (
    InstanceKey,
    OwnContainer,
    WantedContainer,
    is_kept,
    kept_name,
)
from orbitcontrol.planning.rollout_plan import plan
from orbitcontrol.planning.rollout_reading import Expected, ranges, shared_of
from orbitcontrol.planning.rollout_steps import (
    Action,
    Advance,
    Claim,
    GiveUp,
    Plan,
    Remove,
    Rename,
    Rest,
    Revive,
    Settle,
    Start,
    Stop,
    Take,
    Wait,
)
from orbitcontrol.planning.rollout_writes import (
    REWRITES,
    Stamp,
    Transaction,
    Writing,
    transaction,
)
from orbitcontrol.planning.rollouts import Local, Memory, Shared
from simulation.daemon import KEYS, TTL, Faults
from simulation.engine import EngineError, SimulatedContainer
from simulation.memory_store import MemoryCore
from simulation.observer import Observer
from simulation.shop import SERVICE
from simulation.timeline import Timeline


class Witness:
    """Sees what machines do, the moment they do it."""

    def stops(self, machine: Machine, own: OwnContainer) -> None:
        """A stop that was planned begins to take effect."""

    def acts(self, machine: Machine, action: Action) -> None:
        """A step is about to be carried out."""


class Machine(Observer):
    """See above. ``gone`` says who is proven gone."""

    def __init__(
        self,
        address: str,
        timeline: Timeline,
        core: MemoryCore,
        faults: Faults,
        *,
        witness: Witness,
        gone: Callable[[], frozenset[str]],
    ) -> None:
        self.witness = witness
        self.gone = gone
        super().__init__(address, timeline, core, faults)

    def forget(self) -> None:
        super().forget()
        self.memory = Memory()
        self.plan: Plan | None = None
        self.backoffs: dict[InstanceKey, Backoff] = {}
        self.counted: set[str] = set()
        self.is_stepping = False
        self.listens_for_slots = False

    # --- rollouts ----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something has changed that the next step may depend on."""
        if self.runs:
            self.soon("step", self._step)

    def _step(self) -> None:
        if self.is_stepping:
            return
        local = self.local()
        if local is None:
            return
        self.is_stepping = True
        now = self.timeline.now
        seen = {
            endpoint.id: self.memory.marked.get(endpoint.id, now)
            for endpoint in local.endpoints.values()
            if endpoint.state == "draining" and endpoint.ack
        }
        self.memory = structs.replace(self.memory, marked=seen)

        def read(answer: Reading | StoreError) -> None:
            if isinstance(answer, StoreError):
                self._stepped(again=self.timeline.between(1, 2))
                return
            instances = self.standing.tree.instances if self.standing is not None else 1
            shared = shared_of(KEYS, answer, expected=Expected(instances=instances), gone=self.gone())
            self._decide(local, shared)

        self.read(ranges(KEYS, SERVICE), read)

    def _stepped(self, again: float | None = None) -> None:
        self.is_stepping = False
        if again is not None:
            self.after(again, self.wake)
        self.soon("containers", self._keep_running, delay=0.05)

    def _decide(self, local: Local, shared: Shared) -> None:
        made = self.planned(local, shared)
        mine = shared.held_by(self.address)
        self.plan = made
        self.directives = made.directives
        self.guard = None if mine is None else (KEYS.slot(SERVICE, mine[0]), mine[1].revision)
        self.listens_for_slots = mine is not None or isinstance(made.action, Wait)
        self.publisher.wake()
        action = made.action
        self.witness.acts(self, action)
        if isinstance(action, Writing):
            self._write(action, local, shared)
            return
        now = self.timeline.now
        match action:
            case Settle():
                self.settled = self.standing.aimed if self.standing is not None else None
                self._stepped(again=0.01)
            case GiveUp():
                pause = min(30.0 * 2.0**self.memory.retries, 600.0)
                retries = self.memory.retries + 1
                self.memory = structs.replace(self.memory, retries=retries, retry_at=now + pause)
                self._stepped(again=0.01)
            case Wait(until=until):
                self._stepped(again=None if until is None else max(until - now, 0.0) + 0.01)
            case Rest():
                self._stepped()
            case _:
                self._in_docker(action)

    def planned(self, local: Local, shared: Shared) -> Plan:
        """The real planning."""
        return plan(local, shared, self.memory, now=self.timeline.now)

    # --- transactions ------------------------------------------------------------------------------

    def _write(self, action: Writing, local: Local, shared: Shared) -> None:
        if not isinstance(action, REWRITES):
            self._commit(action, local, shared, ())
            return

        def read(answer: Reading | StoreError) -> None:
            if isinstance(answer, StoreError):
                self._stepped(again=self.timeline.between(1, 2))
            else:
                self._commit(action, local, shared, answer.ranges[0])

        self.read((KEYS.deployments_of(SERVICE),), read)

    def _commit(
        self, action: Writing, local: Local, shared: Shared, deployments: tuple[KeyValue, ...]
    ) -> None:
        began = self.timeline.now
        stamp = Stamp(id=self.timeline.new_id("r"), time="2026-01-01T00:00:00Z", user=self.address)
        made = self.transaction(action, local, shared, stamp, deployments)

        def done(answer: int | StoreError) -> None:
            if isinstance(answer, StoreError):
                conflict = isinstance(answer, StoreConflict)
                self._stepped(again=0.05 if conflict else self.timeline.between(0.5, 2))
                return
            self._written(action, made, began)
            self._stepped(again=0.01)

        self.commit(made.compares, made.operations, done)

    def transaction(
        self,
        action: Writing,
        local: Local,
        shared: Shared,
        stamp: Stamp,
        deployments: tuple[KeyValue, ...],
    ) -> Transaction:
        """The real one."""
        return transaction(action, KEYS, local, shared, stamp=stamp, deployments=deployments)

    def _written(self, action: Action, made: Transaction, began: float) -> None:
        memory = self.memory
        slots = KEYS.slots(SERVICE)
        compared = any(isinstance(each, Unchanged) and each.key in slots for each in made.compares)
        if isinstance(action, Take | Claim | Advance) and (compared or isinstance(action, Take)):
            memory = structs.replace(memory, compared=began)
        key = KEYS.progress(SERVICE, self.address)
        for operation in made.operations:
            match operation:
                case Put(key=put, value=value) if put == key:
                    progress = decode(value, Progress, key=key)
                    if self.progress is None or progress.rollout != self.progress.rollout:
                        memory = structs.replace(memory, joined=self.timeline.now, retries=0, retry_at=0.0)
                        self.failures = {}
                    self.progress = progress
                case Delete(range=gone) if key in gone:
                    self.progress = None
                case _:
                    pass
        self.memory = memory

    # --- Docker ------------------------------------------------------------------------------------

    def _in_docker(self, action: Action) -> None:
        between = self.timeline.between
        if isinstance(action, Stop) and self.is_too_late():
            self._stepped(again=0.01)
            return

        def arrives() -> None:
            try:
                took = self._carry_out(action)
            except EngineError as error:
                reason = str(error)
                self.after(between(0.01, 0.1), lambda: self._refused(action, reason))
                return
            self.after(took + between(0.01, 0.1), lambda: self._stepped(again=0.01))

        self.timeline.after(between(0.0, 0.2), arrives)

    def is_too_late(self) -> bool:
        """True when the slot was not compared for so long that it may be somebody else's by now."""
        return self.timeline.now - self.memory.compared > TTL

    def _refused(self, action: Action, reason: str) -> None:
        if isinstance(action, Start):
            self.failures[action.wanted.key, action.wanted.config_hash] = reason
        self._stepped(again=self.timeline.between(0.5, 3))

    def _carry_out(self, action: Action) -> float:
        """Does it; how long that took, in seconds."""
        engine = self.engine
        if not self.host_up:
            return 0.0
        if self.timeline.chance(self.faults.docker):
            raise EngineError("no space left on device")
        match action:
            case Stop():
                self._stop(action)
                return self.timeline.between(0.05, 3)
            case Start(wanted=wanted, beside=beside, ended=gone):
                for old in beside:
                    engine.rename(engine.containers[old.container.id], kept_name(old, wanted.name))
                self._clear(gone)
                self._is_fresh(engine.create(wanted))
            case Revive(own=own, wanted=wanted, ended=gone):
                container = engine.containers[own.container.id]
                self._clear(gone)
                engine.rename(container, wanted.name)
                engine.start(container)
                self._is_fresh(container)
            case Rename(own=own, name=name):
                engine.rename(engine.containers[own.container.id], name)
            case Remove(own=own):
                engine.remove(own.container.id)
        return self.timeline.between(0.02, 0.3)

    def _clear(self, gone: Iterable[ObservedContainer]) -> None:
        for one in gone:
            self.engine.remove(one.id)

    def _stop(self, action: Stop) -> None:
        own, engine = action.own, self.engine
        container = engine.containers[own.container.id]
        if action.keep:
            engine.rename(container, kept_name(own, container.name))
        if container.alive and container.started_at == own.container.started_at:
            self.witness.stops(self, own)
            if own.run_id in self.condemned():
                self.relaunches.append(self.timeline.now)
            engine.stop(container)
        if not action.keep:
            engine.remove(own.container.id)

    def _is_fresh(self, container: SimulatedContainer) -> None:
        picks_port = self.standing is not None and self.standing.tree.picks_port
        if self.runs and self.session and picks_port:
            self.fresh.add(container.own.run_id)

    # --- what is to run, runs ----------------------------------------------------------------------

    def _keep_running(self) -> None:
        made = self.plan
        if made is None or made.in_hand or self.is_stepping or self.is_starting or not self.session:
            return
        own = self.engine.own()
        self._count_ends(own)
        alive = {one.key for one in own if one.alive}
        for wanted in made.aim:
            if wanted.key in alive:
                continue
            backoff = self.backoffs.get(wanted.key, Backoff())
            if backoff.ready_at > self.timeline.now:
                self.after(backoff.ready_at - self.timeline.now + 0.01, self._keep_running)
                continue
            if wanted.image not in self.engine.images:
                continue
            self._start_missing(wanted, own)
            return

    def _count_ends(self, own: tuple[OwnContainer, ...]) -> None:
        for one in own:
            if one.ended and not is_kept(one) and one.container.id not in self.counted:
                self.counted.add(one.container.id)
                before = self.backoffs.get(one.key, Backoff())
                self.backoffs[one.key] = ended(before, reason="ended", now=self.timeline.now)

    def _start_missing(self, wanted: WantedContainer, own: tuple[OwnContainer, ...]) -> None:
        self.is_starting = True

        def arrives() -> None:
            try:
                if self.host_up:
                    for one in own:
                        if one.key == wanted.key and not one.alive and not is_kept(one):
                            self.engine.remove(one.container.id)
                    if not any(one.alive and one.key == wanted.key for one in self.engine.own()):
                        self._is_fresh(self.engine.create(wanted))
            except EngineError as error:
                before = self.backoffs.get(wanted.key, Backoff())
                self.backoffs[wanted.key] = ended(before, reason=str(error), now=self.timeline.now)
            self.after(self.timeline.between(0.01, 0.2), started)

        def started() -> None:
            self.is_starting = False
            self.wake()
            self.soon("containers", self._keep_running, delay=0.05)

        self.timeline.after(self.timeline.between(0.0, 0.2), arrives)
