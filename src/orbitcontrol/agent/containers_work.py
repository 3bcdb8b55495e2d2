"""The actions under way, and what failed before: one task an instance, each on its own.

Whatever one of them runs into is written down as a backoff with its reason, for the next plan and
for people; it never reaches the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Iterable, Mapping
from types import MappingProxyType

from orbitcontrol.agent.board import Board, Wake
from orbitcontrol.agent.containers_actions import ContainerActions
from orbitcontrol.agent.containers_images import Images
from orbitcontrol.errors import OrbitError
from orbitcontrol.log import Log
from orbitcontrol.planning.backoff import Backoff, ended, failed, seen
from orbitcontrol.planning.container_specs import InstanceKey, OwnContainer, WantedContainer
from orbitcontrol.planning.containers import Action, ContainerPlan, Remove, Replace, Start, StartKey

_log = Log(__name__)


class ContainerWork:
    """Carries plans out. ``group`` must be set before the first ``begin``."""

    group: asyncio.TaskGroup

    def __init__(self, *, board: Board, actions: ContainerActions, images: Images, wake: Wake) -> None:
        self._board = board
        self._actions = actions
        self._images = images
        self._wake = wake
        self._wanted: Mapping[InstanceKey, WantedContainer] = {}
        self._busy: dict[InstanceKey, Action] = {}
        self._starts: dict[StartKey, Backoff] = {}
        self._stops: dict[InstanceKey, Backoff] = {}
        self._counted: set[str] = set()  # ids of ended containers that their backoff has counted

    @property
    def busy(self) -> Mapping[InstanceKey, Action]:
        return MappingProxyType(self._busy)

    @property
    def starts(self) -> Mapping[StartKey, Backoff]:
        """Of instances that ended by themselves or could not be started."""
        return MappingProxyType(self._starts)

    @property
    def stops(self) -> Mapping[InstanceKey, Backoff]:
        """Of instances that could not be withdrawn, stopped or removed."""
        return MappingProxyType(self._stops)

    def account(
        self,
        own: Collection[OwnContainer],
        *,
        wanted: Mapping[InstanceKey, WantedContainer],
        alive: Mapping[InstanceKey, OwnContainer],
        busy: Collection[InstanceKey],
    ) -> None:
        """Counts, from one look, who ended by itself and who is healthy; forgets what nobody wants."""
        self._wanted = wanted
        now = _now()
        for one in own:
            key = (one.key, one.config_hash)
            before = self._starts.get(key, Backoff())
            if alive.get(one.key) is one:
                verdict = self._board.verdicts.value.get(one.run_id)
                self._starts[key] = seen(before, up=verdict is not None and verdict.up, now=now)
            elif one.ended and one.container.id not in self._counted and one.key not in busy:
                self._counted.add(one.container.id)
                reason = f"its container ended with exit code {one.container.exit_code}"
                self._starts[key] = ended(before, reason=reason, now=now)
        current = {(one.key, one.config_hash) for one in wanted.values()}
        self._starts = {key: backoff for key, backoff in self._starts.items() if key in current}
        self._stops = {key: self._stops[key] for key in {one.key for one in own} if key in self._stops}
        self._counted &= {one.container.id for one in own}

    async def begin(self, plan: ContainerPlan) -> dict[str, str]:
        """Begins each action whose image is there. Returns the images that are not: image → why.

        The reason is "" while an image is pulled for the first time. Raises DockerUnreachable.
        """
        missing: dict[str, str] = {}
        for action in plan.actions:
            if not isinstance(action, Remove):
                image = action.wanted.image
                if not await self._images.ready(image, self.group):
                    missing[image] = self._images.failure(image)
                    continue
            self._busy[action.key] = action
            self.group.create_task(self._carry_out(action), name=f"container {action.key}")
        self._images.keep(set(missing))
        return missing

    def next_attempt(self, waiting: Iterable[Backoff]) -> float | None:
        """When the next backoff ends, on the event loop's clock: a plan's, a stop's or an image's."""
        times = [backoff.ready_at for backoff in (*waiting, *self._stops.values())]
        image = self._images.next_attempt()
        return min(times if image is None else [*times, image], default=None)

    async def _carry_out(self, action: Action) -> None:
        try:
            match action:
                case Start():
                    await self._start(action)
                case Replace():
                    grace = action.wanted.effective.service.update.stop_timeout
                    stopped = await self._stop(action.outdated, grace, action.reason)
                    # What is wanted may have changed while it drained: then the next plan decides.
                    if stopped and self._wanted.get(action.key) == action.wanted:
                        await self._start(Start(wanted=action.wanted, ended=(), reason=action.reason))
                case Remove():
                    await self._stop(action.unwanted, action.grace, action.reason)
        finally:
            del self._busy[action.key]
            self._wake.ring("action ended")

    async def _start(self, action: Start) -> None:
        wanted = action.wanted
        _log.info("starting container", container=wanted.name, image=wanted.image, reason=action.reason)
        failure = await _failure(self._actions.start(wanted, action.ended))
        if failure:
            _log.warning("container could not be started", container=wanted.name, reason=failure)
            key = (wanted.key, wanted.config_hash)
            self._starts[key] = failed(self._starts.get(key, Backoff()), reason=failure, now=_now())
        else:
            _log.info("container started", container=wanted.name, reason=action.reason)

    async def _stop(self, own: OwnContainer, grace: float, reason: str) -> bool:
        """True when the container is gone."""
        name = own.container.name
        _log.info("removing container", container=name, reason=reason)
        failure = await _failure(self._actions.stop(own, grace=grace))
        if failure:
            _log.warning("container could not be removed", container=name, reason=failure)
            self._stops[own.key] = failed(self._stops.get(own.key, Backoff()), reason=failure, now=_now())
        else:
            _log.info("container removed", container=name, reason=reason)
            self._stops.pop(own.key, None)
        return not failure


async def _failure(attempt: Awaitable[None]) -> str:
    """Why the attempt failed; "" when it did not."""
    try:
        await attempt
    except OrbitError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 -- a fault in one action must not end the others
        _log.error("action failed unexpectedly", exc_info=True)
        return f"unexpected {type(error).__name__}: {error}"
    return ""


def _now() -> float:
    return asyncio.get_running_loop().time()
