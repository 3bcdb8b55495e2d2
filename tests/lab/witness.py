"""A witness of rollouts: reads every change of the store in order, and says what was ever true in it.

It depends on nothing that daemons believe: a store's watch leaves no revision out, so what it did not see
has not been.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import NamedTuple, Self

from lab.trees import SERVICE
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.errors import StoreError
from orbitcontrol.model.rollouts import Past, Rollout, Slot, State
from orbitcontrol.model.state import Endpoint
from orbitcontrol.model.stored import Changes, KeyValue, Range
from orbitcontrol.ports import Store
from orbitcontrol.store.open import open_store
from support.machine import Cluster, eventually

_QUIET = 0.5
_PAUSE = 0.1


class Course(NamedTuple):
    """A rollout: when it was seen to begin and, once it has ended, to end, on the monotonic clock."""

    id: str
    began: float
    ended: float | None
    state: State

    @property
    def took(self) -> float:
        """Seconds from its beginning to its end, which it must have reached."""
        assert self.ended is not None
        return self.ended - self.began

    def ended_after(self, first: Course) -> float:
        """Seconds from the beginning of another one to the end of this one."""
        return self.took + self.began - first.began


class Witness:
    """A context. ``overstepped`` says what machines did beyond what they may, ``courses`` how rollouts went.

    ``most_holding`` is the most machines that had a slot in which they had begun, ``most_lacking`` the most
    that had no endpoint to send requests to, whoever was to blame, and at any one revision; ``whole_since``
    is the moment from which on none lacked one, None while one does.
    """

    def __init__(self, cluster: Cluster, *, service: str = SERVICE, at_once: int = 1) -> None:
        self.most_holding = self.most_lacking = 0
        self.whole_since: float | None = None
        self.overstepped: list[str] = []
        self.courses: dict[str, Course] = {}
        self._cluster = cluster
        self._keys = Keys(cluster.base)
        self._service = service
        self._at_once = at_once
        self._slots: dict[str, Slot] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._machines: set[str] = set()
        self._taken: dict[str, set[str]] = {}
        """By slot that has not begun: the others that lacked an endpoint all the time since it was taken."""
        self._last = time.monotonic()
        self._begun = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._begun.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        eventually(lambda: time.monotonic() - self._last > _QUIET, what="the store is at rest")
        self._over.set()
        self._thread.join()

    @property
    def newest(self) -> Course | None:
        """The rollout that was begun last."""
        return next(reversed(self.courses.values()), None)

    def ended(self, after: Course | None) -> Course | None:
        """The rollout that was begun last, if it is another one than ``after`` and has ended."""
        newest = self.newest
        is_new = newest is not None and (after is None or newest.id != after.id)
        return newest if is_new and newest is not None and newest.ended is not None else None

    async def _run(self) -> None:
        store = open_store(self._cluster.store)
        watching = asyncio.create_task(self._watch(store))
        try:
            while not self._over.is_set():
                await asyncio.sleep(_PAUSE)
                if watching.done():
                    watching.result()
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await store.close()

    async def _watch(self, store: Store) -> None:
        whole = Range.prefix(f"{self._cluster.base}/")
        reading = await store.read(whole)
        for item in reading.ranges[0]:
            self._put(item)
        self.courses.clear()  # those from before
        after = reading.revision
        while True:
            with suppress(StoreError):
                async with store.watch(whole, after=after) as stream:
                    self._begun.set()
                    async for changes in stream:
                        after = changes.revision
                        self._apply(changes)
            await asyncio.sleep(_PAUSE)

    def _apply(self, changes: Changes) -> None:
        before = dict(self._slots)
        for changed in changes.events:
            if changed.now is None:
                self._delete(changed.key)
            else:
                self._put(changed.now)
        self._judge(before, changes.revision)

    def _judge(self, before: dict[str, Slot], revision: int) -> None:
        up = {one.machine for one in self._endpoints.values() if one.state == "up"}
        lacking = self._machines - up
        holding = {slot.machine for slot in self._slots.values() if slot.step != "waiting"}
        self.most_lacking = max(self.most_lacking, len(lacking))
        if lacking:
            self.whole_since = None
        elif self.whole_since is None:
            self.whole_since = time.monotonic()
        self.most_holding = max(self.most_holding, len(holding))
        if len(self._slots) > self._at_once:
            self.overstepped.append(f"revision {revision}: {len(self._slots)} slots are taken")
        for key, slot in self._slots.items():
            others = {*lacking, *holding} - {slot.machine}
            if slot.step == "waiting":
                self._taken[key] = self._taken.get(key, others) & others
                continue
            waited = before.get(key)
            others &= self._taken.pop(key, set())
            is_first = waited is not None and waited.step == "waiting" and slot.machine in up
            if is_first and len(others) >= self._at_once:
                self.overstepped.append(f"revision {revision}: {slot.machine} goes out beside {others}")
        for key in self._taken.keys() - self._slots.keys():
            del self._taken[key]

    def _put(self, item: KeyValue) -> None:
        self._last = time.monotonic()
        match self._keys.below(item.key):
            case ("services", self._service, "slots", _):
                self._slots[item.key] = decode(item.value, Slot, key=item.key)
            case ("services", self._service, "endpoints", _):
                self._endpoints[item.key] = decode(item.value, Endpoint, key=item.key)
            case ("services", self._service, "progress", address):
                self._machines.add(address)
            case ("deployments", self._service, "rollout"):
                rollout = decode(item.value, Rollout, key=item.key)
                self._note(rollout.id, rollout.state)
            case ("deployments", self._service, "history", _):
                past = decode(item.value, Past, key=item.key)
                self._note(past.id, "complete" if past.outcome == "complete" else "failed")

    def _note(self, rollout: str, state: State) -> None:
        now = time.monotonic()
        course = self.courses.get(rollout, Course(rollout, now, None, state))
        if course.ended is None:
            ended = now if state in ("complete", "failed") else None
            self.courses[rollout] = course._replace(state=state, ended=ended)

    def _delete(self, key: str) -> None:
        self._slots.pop(key, None)
        self._endpoints.pop(key, None)
        match self._keys.below(key):
            case ("services", self._service, "progress", address):
                self._machines.discard(address)
