"""The actions under way, and what failed before: one task an instance, each on its own.

Whatever one of them runs into is written down as a backoff with its reason, for the next plan and
for people; it never reaches the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Iterable, Mapping
from functools import partial
from types import MappingProxyType

from msgspec import structs

from orbitcontrol.agent.board import Board, Wake
from orbitcontrol.agent.containers_actions import ContainerActions
from orbitcontrol.agent.containers_cleanup import ImageCleanup
from orbitcontrol.agent.containers_images import Images
from orbitcontrol.agent.containers_words import LastWords
from orbitcontrol.errors import OrbitError
from orbitcontrol.log import Log
from orbitcontrol.planning.backoff import Backoff, ended, failed, seen
from orbitcontrol.planning.container_specs import InstanceKey, OwnContainer, WantedContainer, is_kept
from orbitcontrol.planning.containers import (
    Action,
    ActionKey,
    ContainerPlan,
    Remove,
    Start,
    StartKey,
)
from orbitcontrol.planning.strangers import Evict, StrangerKey

_log = Log(__name__)


class ContainerWork:
    """Carries plans out. ``group`` must be set before the first ``begin``."""

    group: asyncio.TaskGroup

    def __init__(
        self,
        *,
        board: Board,
        actions: ContainerActions,
        images: Images,
        cleanup: ImageCleanup,
        words: LastWords,
        wake: Wake,
    ) -> None:
        self._board = board
        self._actions = actions
        self._images = images
        self._cleanup = cleanup
        self._words = words
        self._wake = wake
        self._busy: dict[ActionKey, Action] = {}
        self._starts: dict[StartKey, Backoff] = {}
        self._stops: dict[ActionKey, Backoff] = {}
        self._counted: set[str] = set()  # ids of ended containers that their backoff has counted

    @property
    def busy(self) -> Mapping[ActionKey, Action]:
        return MappingProxyType(self._busy)

    @property
    def starts(self) -> Mapping[StartKey, Backoff]:
        """Of instances that ended by themselves or could not be started."""
        return MappingProxyType(self._starts)

    @property
    def stops(self) -> Mapping[ActionKey, Backoff]:
        """Of what could not be withdrawn, stopped or removed."""
        return MappingProxyType(self._stops)

    def account(
        self,
        own: Collection[OwnContainer],
        *,
        present: Collection[str],
        wanted: Mapping[InstanceKey, WantedContainer],
        alive: Mapping[InstanceKey, OwnContainer],
        busy: Collection[ActionKey],
    ) -> None:
        """Counts, from one look, who ended by itself and who is healthy; forgets what nobody wants.

        ``present`` are the ids of all containers that there are.
        """
        now = _now()
        for one in own:
            key = (one.key, one.config_hash)
            before = self._starts.get(key, Backoff())
            if alive.get(one.key) is one:
                verdict = self._board.verdicts.value.get(one.run_id)
                self._starts[key] = seen(before, up=verdict is not None and verdict.up, now=now)
            elif one.ended and not is_kept(one) and self._is_new(one, busy):
                self._counted.add(one.container.id)
                reason = f"its container ended with exit code {one.container.exit_code}"
                self._starts[key] = ended(before, reason=reason, now=now)
                self._words.read(one.container.id, partial(self._add_words, key, reason), self.group)
        current = {(one.key, one.config_hash) for one in wanted.values()}
        self._starts = {key: backoff for key, backoff in self._starts.items() if key in current}
        instances = {one.key for one in own}
        self._stops = {
            key: backoff
            for key, backoff in self._stops.items()
            if (key.container_id in present if isinstance(key, StrangerKey) else key in instances)
        }
        self._counted &= {one.container.id for one in own}

    async def begin(self, plan: ContainerPlan) -> dict[str, str]:
        """Begins each action whose image is there. Returns the images that are not: image → why.

        The reason is "" while an image is pulled for the first time. Raises DockerUnreachable.
        """
        missing: dict[str, str] = {}
        rollouts = self._board.rollouts
        for action in plan.actions:
            if isinstance(action, Start):
                image = action.wanted.image
                if not await self._images.ready(image, self.group):
                    missing[image] = self._images.failure(image)
                    continue
            service = action.key.service if isinstance(action.key, InstanceKey) else ""
            if service in rollouts.in_hand.value - rollouts.cut_off.value:
                continue  # taken in hand while images were looked for
            self._busy[action.key] = action
            self._tell_busy()
            self.group.create_task(self._carry_out(action), name=f"container {action.key}")
        self._images.keep("containers", set(missing))
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
                case Remove():
                    own = action.unwanted
                    await self._stop(action.key, own.container.name, self._actions.remove(own), action.reason)
                case Evict():
                    stranger = action.stranger
                    attempt = self._actions.evict(stranger, grace=action.grace)
                    await self._stop(action.key, stranger.name, attempt, action.reason)
        finally:
            if not isinstance(action, Start):
                self._cleanup.ask()
            del self._busy[action.key]
            self._tell_busy()
            self._wake.ring("action ended")

    def _is_new(self, one: OwnContainer, busy: Collection[ActionKey]) -> bool:
        """True for an end that was not counted yet, and that no action is the reason for."""
        return one.container.id not in self._counted and one.key not in busy

    def _tell_busy(self) -> None:
        services = (key.service for key in self._busy if isinstance(key, InstanceKey))
        self._board.rollouts.busy.set(frozenset(services))

    async def _start(self, action: Start) -> None:
        wanted = action.wanted
        _log.info("starting container", container=wanted.name, image=wanted.image, reason=action.reason)
        await self._words.heard(one.id for one in action.ended)
        failure = await _failure(self._actions.start(wanted, action.ended))
        if failure:
            _log.warning("container could not be started", container=wanted.name, reason=failure)
            key = (wanted.key, wanted.config_hash)
            self._starts[key] = failed(self._starts.get(key, Backoff()), reason=failure, now=_now())
        else:
            _log.info("container started", container=wanted.name, reason=action.reason)

    async def _stop(self, key: ActionKey, name: str, attempt: Awaitable[None], reason: str) -> bool:
        """True when the container is gone."""
        _log.info("removing container", container=name, reason=reason)
        failure = await _failure(attempt)
        if failure:
            _log.warning("container could not be removed", container=name, reason=failure)
            self._stops[key] = failed(self._stops.get(key, Backoff()), reason=failure, now=_now())
        else:
            _log.info("container removed", container=name, reason=reason)
            self._stops.pop(key, None)
        return not failure

    def _add_words(self, key: StartKey, reason: str, words: str) -> None:
        """Adds the end of its log to the reason why an instance ended, unless that is outdated."""
        backoff = self._starts.get(key)
        if backoff is not None and backoff.reason == reason:
            self._starts[key] = structs.replace(backoff, reason=f"{reason}; its log ends: {words}")
            self._wake.ring("log read")


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
