"""The containers of one machine: Docker's events, the board and a slow tick wake one small step.

A step looks at all containers, plans, tells the others what runs, and begins the planned actions
as tasks of their own, one for each instance at most; it waits for none of them, so an image that
cannot be pulled or a container that does not stop delays nobody else.

What is not known changes nothing. Without a configuration nothing is planned; while Docker does not
answer, the runs stay as they were. Only a container that was seen to end ends its run: Docker's
event does so at once, before the next look, so that its endpoint is withdrawn without delay.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterable, Mapping

from orbitcontrol.agent.board import Board, Cell, Wake
from orbitcontrol.agent.containers_actions import ContainerActions
from orbitcontrol.agent.containers_adopted import AdoptedContainers
from orbitcontrol.agent.containers_cleanup import ImageCleanup
from orbitcontrol.agent.containers_images import Images
from orbitcontrol.agent.containers_ports import PortPicker
from orbitcontrol.agent.containers_report import (
    Sight,
    container_runs,
    instance_reports,
    problems,
    process_reports,
    service_runs,
    unseen_runs,
)
from orbitcontrol.agent.containers_words import LastWords
from orbitcontrol.agent.containers_work import ContainerWork
from orbitcontrol.agent.loop import TICK, forever
from orbitcontrol.errors import DockerUnreachable, OrbitError
from orbitcontrol.log import Log
from orbitcontrol.model.configuration import Desired, EffectiveService
from orbitcontrol.model.containers import ContainerEvent, ObservedContainer
from orbitcontrol.model.runs import Run
from orbitcontrol.planning.container_specs import (
    InstanceKey,
    OwnContainer,
    WantedContainer,
    own_containers,
    wanted_containers,
)
from orbitcontrol.planning.containers import (
    ActionKey,
    Situation,
    alive_by_instance,
    lost_revisions,
    plan_containers,
)
from orbitcontrol.planning.images import ImageNeeds
from orbitcontrol.planning.ports import PortRange
from orbitcontrol.ports import ContainerRuntime, StateFiles

_log = Log(__name__)

_OWNER = "containers"
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
_LOOK_TIMEOUT = 30.0


class ContainersLoop:
    """Keeps running what is aimed at. ``actions`` and ``images`` serve the rollouts loop, too."""

    def __init__(
        self,
        *,
        board: Board,
        runtime: ContainerRuntime,
        port_range: PortRange,
        files: StateFiles,
        tick: float = TICK,
    ) -> None:
        self._board = board
        self._runtime = runtime
        self._tick = tick
        self._wake = Wake()
        self._ports = PortPicker(port_range, files)
        self.actions = ContainerActions(
            runtime,
            self._ports,
            ended=lambda container: self._end(container.id, container.name, "it was stopped"),
        )
        self.images = Images(runtime, wake=self._wake)
        self._adopted = AdoptedContainers(files)
        self._cleanup = ImageCleanup(runtime, board.problems)
        self._work = ContainerWork(
            board=board,
            actions=self.actions,
            images=self.images,
            cleanup=self._cleanup,
            words=LastWords(runtime),
            wake=self._wake,
        )
        self._died: set[str] = set()  # ids whose end Docker announced since the last look began
        self._effective: dict[str, EffectiveService] = {}
        self._ran: set[str] = set()  # services that had a run in the life of this daemon
        self._looked = False
        self._is_looking = False
        self._looks: Cell[int] = Cell("looks", 0)
        self._alarm: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Works until it is cancelled, and then leaves the containers as they are. Never returns."""
        board = self._board
        for cell in (board.desired, board.verdicts, board.published, board.proven):
            cell.subscribe(self._wake)
        board.rollouts.aims.subscribe(self._wake)
        board.rollouts.in_hand.subscribe(self._wake)
        board.rollouts.cut_off.subscribe(self._wake)
        async with asyncio.TaskGroup() as group:
            self._group = self._work.group = group
            group.create_task(self._follow_events(), name="docker events")
            await forever(_OWNER, self._step, wake=self._wake, problems=board.problems, tick=self._tick)

    async def look(self) -> None:
        """Returns when the containers were looked at, or Docker was silent, from now on."""
        after = self._looks.value + (2 if self._is_looking else 1)
        self._wake.ring("another look")
        await self._looks.wait_for(lambda looks: looks >= after, timeout=_LOOK_TIMEOUT)

    async def _step(self, reasons: frozenset[str]) -> None:
        self._is_looking = True
        try:
            await self._look(reasons)
        finally:
            self._is_looking = False
            self._looks.set(self._looks.value + 1)

    async def _look(self, reasons: frozenset[str]) -> None:
        if reasons & {"start", "tick"}:
            self._cleanup.ask()
        desired = self._board.desired.value
        if desired is None:
            return
        try:
            await self._look_and_act(desired)
        except DockerUnreachable as error:
            self._without_docker(desired, str(error))

    async def _look_and_act(self, desired: Desired) -> None:
        busy: set[ActionKey] = set(
            self._work.busy
        )  # from before the look: what ends meanwhile is not in what is seen
        self._died.clear()
        seen = await self._runtime.containers()
        self._looked = True
        wanted = {one.key: one for one in wanted_containers(desired)}
        observed = self._adopted.labelled(seen, wanted.values(), address=desired.machine.address)
        own = own_containers(observed, address=desired.machine.address)
        busy |= {one.key for one in own if one.container.id in self._died}  # the next look knows more
        aimed = {one.key: one for aim in self._board.rollouts.aims.value.values() for one in aim}
        alive = alive_by_instance(own, aimed)
        self._tell_runs(desired, self._serving(own, alive.values()))
        self._board.rollouts.own.set(tuple(sorted(own, key=lambda one: one.container.id)))
        self._ports.observe(_ports_in_use(desired, observed, own))
        present = {container.id for container in observed}
        self._work.account(own, present=present, wanted=aimed, alive=alive, busy=busy)
        lost = lost_revisions(own, wanted)
        plan = plan_containers(aimed.values(), self._situation(desired, observed, busy, lost))
        sight = Sight(
            desired=desired,
            wanted=_shown(wanted, aimed, alive, planned=self._board.rollouts.aims.value),
            alive=alive,
            plan=plan,
            images=await self._work.begin(plan),
            busy=self._work.busy,
            stops=self._work.stops,
            ended={one.key for one in own if one.ended},
            verdicts=self._board.verdicts.value,
        )
        self._board.instances.set(instance_reports(sight))
        self._board.problems.report(_OWNER, problems(sight))
        self._set_alarm(self._work.next_attempt(plan.waiting.values()))
        self._cleanup.look(_image_needs(desired, observed, wanted.values()), self._group)

    def _serving(self, own: Iterable[OwnContainer], alive: Iterable[OwnContainer]) -> list[OwnContainer]:
        """One container for each instance, and all that run of a service that is being replaced."""
        in_hand = self._board.rollouts.in_hand.value
        several = [one for one in own if one.alive and one.key.service in in_hand]
        return [*several, *(one for one in alive if one.key.service not in in_hand)]

    def _situation(
        self,
        desired: Desired,
        observed: tuple[ObservedContainer, ...],
        busy: Collection[ActionKey],
        lost: Mapping[InstanceKey, str],
    ) -> Situation:
        return Situation(
            address=desired.machine.address,
            observed=observed,
            held=desired.held,
            holding=bool(desired.holding),
            lost=lost,
            in_hand=self._board.rollouts.in_hand.value - self._board.rollouts.cut_off.value,
            published=None if self._board.proven.value is None else self._board.published.value,
            busy=busy,
            starts=self._work.starts,
            stops=self._work.stops,
            now=asyncio.get_running_loop().time(),
            authoritative=desired.authoritative_names,
            foreign_ports={
                one.service.endpoint_port
                for one in desired.services.values()
                if one.service.container is None
            },
        )

    def _tell_runs(self, desired: Desired, alive: Collection[OwnContainer]) -> None:
        """Publishes what runs. A container that nothing wants any more keeps the service it was run as."""
        running = {one.key.service for one in alive}
        known = {name: effective for name, effective in self._effective.items() if name in running}
        wanted = {
            name: effective
            for name, effective in desired.services.items()
            if effective.service.container is not None
        }
        self._effective = known | wanted
        living = [one for one in alive if one.container.id not in self._died]
        self._set_runs(
            [
                *service_runs(desired, self._runs_before()),
                *container_runs(living, self._effective, address=desired.machine.address),
            ],
            unseen=desired.held - self._ran,
        )

    def _without_docker(self, desired: Desired, reason: str) -> None:
        """Docker is silent: what was seen before still counts, and all else goes on."""
        self._board.rollouts.own.set(None)
        containers = {name for name, one in desired.services.items() if one.service.container is not None}
        before = self._runs_before()
        self._set_runs(
            [*service_runs(desired, before), *unseen_runs(desired, before)],
            unseen=(desired.held | (frozenset() if self._looked else containers)) - self._ran,
        )
        seen = [report for report in self._board.instances.value if report.service in containers]
        reports = [*seen, *process_reports(desired, self._board.verdicts.value)]
        self._board.instances.set(tuple(sorted(reports, key=lambda one: (one.service, one.instance))))
        self._board.problems.report(_OWNER, {"docker": reason} if containers else {})
        self._set_alarm(asyncio.get_running_loop().time() + _LONGEST_PAUSE)

    def _set_runs(self, runs: Iterable[Run], *, unseen: frozenset[str]) -> None:
        found = tuple(sorted(runs, key=lambda run: run.id))
        self._ran |= {run.id.service for run in found}
        self._board.unseen.set(unseen)
        self._board.runs.set(found)

    def _runs_before(self) -> tuple[Run, ...]:
        return self._board.runs.value or ()

    async def _follow_events(self) -> None:
        """Listens to Docker for ever; after each new beginning everything is looked at again."""
        pause = _FIRST_PAUSE
        while True:
            try:
                async with self._runtime.events() as events:
                    self._wake.ring("listening to docker")
                    pause = _FIRST_PAUSE
                    async for event in events:
                        self._notice(event)
            except OrbitError as error:
                _log.debug("not listening to docker", reason=error)
            except Exception:  # noqa: BLE001 -- an event that nobody foresaw must not end the daemon
                _log.error("listening to docker failed unexpectedly", exc_info=True)
            self._wake.ring("not listening to docker")
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _notice(self, event: ContainerEvent) -> None:
        """A container that died has no run from this moment on; all else is seen by the next look."""
        if event.action == "start":
            self._died.discard(event.id)
        elif event.action == "die":
            self._end(event.id, event.name, "docker says so")
        elif event.action == "destroy":
            self._cleanup.ask()  # its image may be needed no more
        self._wake.ring(f"docker {event.action}")

    def _end(self, container_id: str, name: str, reason: str) -> None:
        """The container has no run any more, also not in what a look under way has seen."""
        self._died.add(container_id)
        runs = self._board.runs.value
        if runs is not None and any(run.id.container_id == container_id for run in runs):
            _log.info("container ended", container=name, reason=reason)
            self._board.runs.set(tuple(run for run in runs if run.id.container_id != container_id))

    def _set_alarm(self, at: float | None) -> None:
        """Rings again when the next backoff ends."""
        if self._alarm is not None:
            self._alarm.cancel()
        loop = asyncio.get_running_loop()
        self._alarm = None if at is None else loop.call_at(at, self._wake.ring, "backoff ended")


def _shown(
    wanted: Mapping[InstanceKey, WantedContainer],
    aimed: Mapping[InstanceKey, WantedContainer],
    alive: Collection[InstanceKey],
    *,
    planned: Collection[str],
) -> dict[InstanceKey, WantedContainer]:
    """The instances to report: those aimed at, those that still run, and what nobody has planned for yet."""
    rest = {key: one for key, one in wanted.items() if key in alive or key.service not in planned}
    return rest | {key: one for key, one in aimed.items() if key in wanted}


def _ports_in_use(
    desired: Desired, observed: Iterable[ObservedContainer], own: Iterable[OwnContainer]
) -> set[int]:
    """Published by any container, remembered by one of ours, or fixed for a service."""
    published = {port.outside for container in observed for port in container.published}
    fixed = {effective.service.endpoint_port for effective in desired.services.values()}
    return (published | {one.port for one in own} | fixed) - {0}


def _image_needs(
    desired: Desired, observed: Iterable[ObservedContainer], wanted: Iterable[WantedContainer]
) -> ImageNeeds | None:
    """What the machine needs images for; None while some service is held: it might need any of them."""
    if desired.holding or desired.held:
        return None
    return ImageNeeds(
        authoritative=desired.authoritative_names,
        used=frozenset(container.image_id for container in observed),
        wanted=frozenset(one.image for one in wanted),
    )
