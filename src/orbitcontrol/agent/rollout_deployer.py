"""One service on one machine, through its rollouts: observe, plan one step, take it, look again.

What is decided, and why it is safe, is told in ``planning.rollouts``; this carries it out. Nothing is kept
between two steps but how long things have been going on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from msgspec import Struct, structs

from orbitcontrol.agent.board import Board, Guard, Wake
from orbitcontrol.agent.rollout_containers import ContainerStep, Hands, change
from orbitcontrol.agent.rollout_memory import RolloutMemory
from orbitcontrol.agent.rollout_sight import Facts, boot_time, condemned_of, local_of, timed
from orbitcontrol.agent.rollout_store import RolloutStore
from orbitcontrol.errors import (
    DockerError,
    DockerUnreachable,
    OrbitError,
    StoreAmbiguous,
    StoreConflict,
    StoreError,
)
from orbitcontrol.log import Log
from orbitcontrol.model.configuration import EffectiveService
from orbitcontrol.model.runs import RunId
from orbitcontrol.model.service import Update
from orbitcontrol.model.stored import Range
from orbitcontrol.planning.container_specs import InstanceKey
from orbitcontrol.planning.relaunch import recent_of
from orbitcontrol.planning.rollout_aims import alive, is_done, matches
from orbitcontrol.planning.rollout_plan import plan
from orbitcontrol.planning.rollout_steps import (
    Action,
    Advance,
    Claim,
    Fail,
    GiveUp,
    Plan,
    Remove,
    Rename,
    Report,
    Rest,
    Revive,
    Settle,
    Start,
    Stop,
    Take,
    Wait,
)
from orbitcontrol.planning.rollout_writes import Writing
from orbitcontrol.planning.rollouts import Local, Memory, Shared

_log = Log(__name__)

_STEPS = 200
"""Steps in a row without a wait, before something must be wrong."""

_FIRST_RETRY, _LONGEST_RETRY = 5.0, 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 15.0
_DIRECTED_TIMEOUT = 20.0
_PATIENCE = 2.0
"""Seconds without the store after which a service in hand is to be kept running without it."""


class Told(Struct, frozen=True, kw_only=True):
    """What the deployer tells the other loops: its plan, and the slot that stands behind it."""

    plan: Plan
    guard: Guard | None = None


class Deployer:
    """Brings one service on this machine to where it is wanted. ``changed`` is called with each new plan."""

    def __init__(
        self,
        service: str,
        *,
        board: Board,
        store: RolloutStore,
        hands: Hands,
        memory: RolloutMemory,
        facts: Facts,
        wake: Wake,
        ttl: float,
        changed: Callable[[], None],
    ) -> None:
        self.service = service
        self.told: Told | None = None
        self.trouble = ""
        self._board = board
        self._store = store
        self._hands = hands
        self._remembered = memory
        self._facts = facts
        self._wake = wake
        self._ttl = ttl
        self._changed = changed
        self._memory = Memory()
        self._seen: Local | None = None
        """What was last looked at; time and what only this deployer knows left out."""
        self._rested: Local | None = None
        """What there was nothing to be done about, by a reading of the store; None when it is to be read."""
        self._until: float | None = 0.0
        self._failures: dict[tuple[InstanceKey, str], str] = {}
        self._pause = 0.0
        self._fresh: set[RunId] = set()
        """What this deployer started in its present slot."""
        self._cut_off_since: float | None = None

    @property
    def is_cut_off(self) -> bool:
        """True while the store has not answered for a while."""
        since = self._cut_off_since
        return since is not None and boot_time() - since >= _PATIENCE

    def look(self, *, doubt: bool) -> None:
        """Something may have changed on this machine, or with ``doubt`` in the store."""
        if doubt:
            self._rested = None
        if doubt or self._sight() != self._seen:
            self._wake.ring("look")

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Never returns."""
        while True:
            left = None if self._until is None else max(0.0, self._until - boot_time())
            if await self._wake.wait(left) == {"tick"}:
                self._rested = None
            self._until = None
            failure, begun, was_cut_off = "", boot_time(), self.is_cut_off
            is_away = False
            try:
                await self._work(group)
                self._pause = 0.0
            except (StoreConflict, StoreAmbiguous):
                self._until = boot_time() + random.uniform(0.005, 0.05)
            except OrbitError as error:
                failure, is_away = str(error), isinstance(error, StoreError)
            except Exception as error:  # noqa: BLE001 -- a fault in one service must not end the others
                _log.error("rollout step failed unexpectedly", exc_info=True, service=self.service)
                failure = f"unexpected {type(error).__name__}: {error}"
            if failure:
                self._pause = min(max(self._pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
                self._until = boot_time() + self._pause * random.uniform(0.8, 1.2)
            self._cut_off_since = (self._cut_off_since or begun) if is_away else None
            if failure != self.trouble or was_cut_off != self.is_cut_off:
                self.trouble = failure
                self._changed()

    def _sight(self) -> Local | None:
        return local_of(
            self.service, board=self._board, memory=self._remembered, facts=self._facts, ttl=self._ttl
        )

    async def _work(self, group: asyncio.TaskGroup) -> None:
        for _ in range(_STEPS):
            self._seen = self._sight()
            if self._seen is None:
                return
            local = await self._completed(self._seen, group)
            if self._rested is not None and _lasting(local) == self._rested:
                return
            self._rested = None
            shared = await self._store.read(local, instances=self._instances())
            if self._sight() != self._seen:
                continue  # while the store took its time
            local = self._with_progress(local, shared)
            planned = self._plan(local, shared)
            match planned.action:
                case Rest() | Wait():
                    self._wait_for(planned.action, local, shared, group)
                    return
                case action:
                    await self._carry_out(action, local, shared)
        raise OrbitError(f"service {self.service}: {_STEPS} steps in a row led nowhere")

    async def _completed(self, local: Local, group: asyncio.TaskGroup) -> Local:
        """With what only this deployer knows: images, failures, and what is to be started anew."""
        local = timed(local, self._board.rollouts.standing.value)
        images: dict[str, str] = {}
        if local.bound and not local.emptied and not is_done(local):
            running = alive(local)
            for one in local.target:
                is_there = any(matches(own, one, local) for own in running)
                if not is_there and not await self._hands.images.ready(one.image, group):
                    images[one.image] = self._hands.images.given_up(one.image)
        self._hands.images.keep(f"rollout of {self.service}", set(images))
        earlier = self._remembered.of(self.service).relaunches
        condemned, later = condemned_of(local, earlier=earlier)
        if later is not None:
            self._until = boot_time() + later
        return structs.replace(
            local,
            images=images,
            failures={**self._reported(), **self._failures},
            condemned=condemned,
            fresh=self._fresh - self._board.rollouts.offered.value,
        )

    def _reported(self) -> dict[tuple[InstanceKey, str], str]:
        """Why instances that the containers loop starts do not come up."""
        aims = {one.key: one for one in self._board.rollouts.aims.value.get(self.service, ())}
        found = {}
        for report in self._board.instances.value:
            key = InstanceKey(report.service, report.instance)
            if report.service == self.service and report.state in ("failed", "backoff") and key in aims:
                found[key, aims[key].config_hash] = report.reason
        return found

    def _instances(self) -> int:
        desired = self._board.desired.value
        effective = desired.services.get(self.service) if desired is not None else None
        return 1 if effective is None else effective.service.instances

    def _with_progress(self, local: Local, shared: Shared) -> Local:
        """With the progress as the store has it, which this machine remembers from now on."""
        progress = shared.roster.progress.get(local.address)
        before = self._remembered.of(self.service).progress
        if progress != before:
            if progress is not None and (before is None or before.rollout != progress.rollout):
                self._failures = {}
                self._memory = structs.replace(self._memory, joined=boot_time(), retry_at=0.0, retries=0)
            self._remembered.note(self.service, progress=progress)
        return structs.replace(local, progress=progress)

    def _plan(self, local: Local, shared: Shared) -> Plan:
        now = boot_time()
        marked = {
            endpoint.id: self._memory.marked.get(endpoint.id, now)
            for endpoint in local.endpoints.values()
            if endpoint.state == "draining" and endpoint.ack
        }
        self._memory = structs.replace(self._memory, marked=marked)
        planned = plan(local, shared, self._memory, now=now)
        arrived = (self._memory.arrived or now) if planned.arrived else None
        self._memory = structs.replace(self._memory, arrived=arrived)
        mine = shared.held_by(local.address)
        guard = None if mine is None else Guard(self._store.slot_key(mine[0]), mine[1].revision)
        self._tell(Told(plan=planned, guard=guard))
        return planned

    def _tell(self, told: Told) -> None:
        before = self.told
        self.told = told
        if before is None or (before.guard, before.plan) != (told.guard, told.plan):
            self._changed()

    def _wait_for(self, action: Rest | Wait, local: Local, shared: Shared, group: asyncio.TaskGroup) -> None:
        """Sees to it that the next look comes when something may have changed."""
        machines = len(shared.roster.progress)
        ranges: list[Range] = []
        soon: float | None = None
        if isinstance(action, Wait):
            if shared.held_by(local.address) is None:
                ranges = [self._store.slots]
                soon = random.uniform(1.0, 2.0) + machines * 0.01
            else:
                asked = [one.id for one in local.endpoints.values() if one.ack]
                ranges = [self._store.confirmations(one) for one in asked]
                soon = random.uniform(0.5, 1.0)
            if action.until is not None:
                soon = min(soon, max(0.0, action.until - boot_time()))
        elif shared.rollout is not None and shared.rollout.state == "running":
            soon = random.uniform(5.0, 10.0) + machines * 0.05  # others may need somebody to end it
        self._store.watch(group, *ranges)
        is_read = shared.rollout is None or local.known >= shared.rollout_revision
        if isinstance(action, Rest) and not is_read:
            soon = random.uniform(1.0, 2.0)  # what the rollout's newest word means for this machine is open
        elif isinstance(action, Rest):
            self._rested = _lasting(local)
            if not local.bound:
                self._remembered.forget(self.service)
        if soon is not None:
            at = boot_time() + soon
            self._until = at if self._until is None else min(self._until, at)

    async def _carry_out(self, action: Action, local: Local, shared: Shared) -> None:
        match action:
            case Settle():
                self._remembered.note(self.service, settled=self._effective())
            case GiveUp(reason=reason):
                self._give_up(reason)
            case Start() | Revive() | Rename() | Remove() | Stop():
                await self._change_containers(action, local)
            case Rest() | Wait():
                pass
            case _:
                await self._write(action, local, shared)

    async def _write(self, action: Writing, local: Local, shared: Shared) -> None:
        begun = boot_time()
        if isinstance(action, Fail) and action.container:
            words = await self._hands.actions.last_words(action.container)
            if words:
                action = Fail(f"{action.reason}; its log ends: {words}", action.container)
        await self._store.write(action, local, shared)
        if isinstance(action, Take | Claim | Advance):
            self._memory = structs.replace(self._memory, compared=begun)
        if isinstance(action, Take):
            self._fresh = set()
        _log_write(self.service, action)

    def _effective(self) -> EffectiveService | None:
        desired = self._board.desired.value
        return desired.services.get(self.service) if desired is not None else None

    def _give_up(self, reason: str) -> None:
        retries = self._memory.retries + 1
        pause = min(_FIRST_RETRY * 2 ** (retries - 1), _LONGEST_RETRY) * random.uniform(0.8, 1.2)
        self._memory = structs.replace(self._memory, retries=retries, retry_at=boot_time() + pause)
        _log.warning("drain taken back", service=self.service, reason=reason, again_in=f"{pause:.0f} s")

    async def _change_containers(self, action: ContainerStep, local: Local) -> None:
        """Carries out a step on containers, if nobody else is at them; the next plan sees what came of it."""
        if not await self._board.rollouts.busy.wait_for(
            lambda busy: self.service not in busy, timeout=_DIRECTED_TIMEOUT
        ):
            return
        if isinstance(action, Stop) and not await self._may_stop(action, local):
            return
        if isinstance(action, Stop) and action.own.run_id in local.condemned:
            self._note_relaunch()
        before = {own.container.id for own in local.own}
        failure = await self._tried(action)
        await self._hands.look()
        if isinstance(action, Start):
            own = self._facts.own(self.service)
            self._fresh |= {one.run_id for one in own if one.alive and one.container.id not in before}
        if failure is not None:
            raise failure

    async def _tried(self, action: ContainerStep) -> OrbitError | None:
        """Takes the step. The failure, unless the next plan is to make something of it."""
        try:
            await change(self._hands.actions, action, grace=self._grace(), allowed=self._has_slot)
        except DockerUnreachable as error:
            return error
        except DockerError as error:
            if not isinstance(action, Start | Revive):
                return error
            key = (action.wanted.key, action.wanted.config_hash)
            is_again = key in self._failures
            self._failures[key] = str(error)
            _log.warning("container could not be started", container=action.wanted.name, reason=error)
            return error if is_again else None
        return None

    async def _may_stop(self, action: Stop, local: Local) -> bool:
        """True when the endpoint is what the plan took it for, and the slot was ours a moment ago."""
        cells, run = self._board.rollouts, action.own.run_id
        wanted = self.told.plan.directives.get(run) if self.told is not None else None
        is_directed = await cells.directed.wait_for(
            lambda directed: directed is not None and directed.runs.get(run) == wanted,
            timeout=_DIRECTED_TIMEOUT,
        )
        same = cells.publications.value.get(run) == local.endpoints.get(run)
        return is_directed and same and self._has_slot()

    def _has_slot(self) -> bool:
        """True when the slot was this machine's so short a time ago that nobody can have taken it away."""
        return boot_time() - self._memory.compared < self._ttl

    def _grace(self) -> float:
        effective = self._effective()
        return float((effective.service.update if effective is not None else Update()).stop_timeout)

    def _note_relaunch(self) -> None:
        now = time.time()
        earlier = recent_of(self._remembered.of(self.service).relaunches, now=now)
        self._remembered.note(self.service, relaunches=(*earlier, now))


def _lasting(local: Local) -> Local:
    """What of a service a machine at rest has to look at again when it changes."""
    return structs.replace(
        local, health={}, ages={}, endpoints={}, images={}, failures={}, fresh=(), known=0, out_of_time=False
    )


def _log_write(service: str, action: Writing) -> None:
    if isinstance(action, Report):
        return
    fields = {name: getattr(action, name) for name in ("number", "step", "reason") if hasattr(action, name)}
    _log.info("rollout: " + type(action).__name__.lower(), service=service, **fields)
