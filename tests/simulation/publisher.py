"""The endpoints of a simulated machine: the rules of publication, and the writing of them.

What is believed to be published is read from the store with each session and after each write that may have
failed. What an endpoint stands for is known from the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from msgspec import Struct

from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import StoreError
from orbitcontrol.model.runs import RunId
from orbitcontrol.model.state import Endpoint
from orbitcontrol.model.stored import Compare, Delete, KeyValue, Operation, Put, Range, Reading, Unchanged
from orbitcontrol.planning.container_specs import OwnContainer
from orbitcontrol.planning.rollout_steps import Directive
from orbitcontrol.planning.rollouts import Health
from simulation.daemon import KEYS, Daemon
from simulation.shop import SERVICE


class Published(Struct, frozen=True):
    """An endpoint of the machine in the store."""

    endpoint: Endpoint
    run: RunId | None
    revision: int = 0


class Sight(Struct, frozen=True, kw_only=True):
    """What the machine sees; ``directives`` are None until they are known."""

    runs: Mapping[RunId, OwnContainer]
    health: Mapping[RunId, Health]
    directives: Mapping[RunId, Directive] | None
    guard: tuple[str, int] | None = None
    """The slot's key and revision that a mark compares."""


class Publisher:
    """Keeps the endpoints of a machine. ``changed`` is called when what is believed does."""

    def __init__(self, daemon: Daemon, look: Callable[[], Sight | None], changed: Callable[[], None]) -> None:
        self._daemon = daemon
        self._look = look
        self._changed = changed
        self.saved: dict[str, RunId] = {}
        """On disk: which run each endpoint stands for."""
        self.forget()

    def forget(self) -> None:
        """What a new process does not know."""
        self.session = ""
        self.published: dict[str, Published] = {}
        self._is_busy = False

    @property
    def endpoints(self) -> dict[RunId, Endpoint]:
        """By the run that they stand for."""
        return {item.run: item.endpoint for item in self.published.values() if item.run is not None}

    def wake(self) -> None:
        """Looks again soon."""
        self._daemon.soon("publish", self._step)

    def _step(self) -> None:
        daemon = self._daemon
        if self._is_busy or not daemon.session:
            return
        if self.session != daemon.session:
            self._observe()
            return
        sight = self._look()
        if sight is None:
            return
        compares, operations, after = self._plan(sight)
        if not operations:
            return
        self._is_busy = True
        self.saved |= {item.endpoint.id: item.run for item in after.values() if item.run is not None}
        session = self.session

        def done(answer: int | StoreError) -> None:
            self._is_busy = False
            if isinstance(answer, StoreError):
                self.session = ""
                daemon.soon("publish", self._step, delay=daemon.timeline.between(0.1, 1.0))
                return
            if session == self.session:
                self.published = {
                    key: Published(item.endpoint, item.run, item.revision or answer)
                    for key, item in after.items()
                }
                keep = {item.endpoint.id for item in self.published.values()}
                self.saved = {each: run for each, run in self.saved.items() if each in keep}
            self._changed()
            self.wake()

        daemon.commit(tuple(compares), tuple(operations), done)

    def _observe(self) -> None:
        daemon, session = self._daemon, self._daemon.session
        self._is_busy = True

        def reads() -> tuple[KeyValue, ...]:
            keys = daemon.core.lease_keys(daemon.lease)
            found = daemon.core.read(KEYS.endpoints(SERVICE)).ranges[0]
            return tuple(item for item in found if item.key in keys)

        def read(answer: tuple[KeyValue, ...] | StoreError) -> None:
            self._is_busy = False
            if isinstance(answer, StoreError) or session != daemon.session:
                daemon.soon("publish", self._step, delay=1.0)
                return
            self.published = {}
            for item in answer:
                endpoint = decode(item.value, Endpoint, key=item.key)
                self.published[item.key] = Published(endpoint, self.saved.get(endpoint.id), item.mod_revision)
            self.session = session
            self._changed()
            self.wake()

        daemon.call(reads, read, writes=False)

    def _plan(self, sight: Sight) -> tuple[list[Compare], list[Operation], dict[str, Published]]:
        """As ``plan_endpoints`` does: withdrawals, publications, and marks under the slot's guard."""
        after = dict(self.published)
        compares: list[Compare] = []
        operations: list[Operation] = []
        wanted: dict[str, RunId] = {}
        for run, own in sorted(sight.runs.items()):
            health = sight.health.get(run)
            if own.port and health is not None and health.up:
                wanted.setdefault(KEYS.endpoint(SERVICE, self._host_port(own)), run)
        for key, item in self.published.items():
            known = item.run is None or item.run not in sight.runs or item.run in sight.health
            if key not in wanted and known:
                compares.append(Unchanged(key, item.revision))
                operations.append(Delete(Range.single(key)))
                del after[key]
        is_marked = False
        for key, run in wanted.items():
            published = self._publication(run, self.published.get(key), sight)
            if published is not None:
                after[key] = published
                operations.append(Put(key, encode(published.endpoint), self._daemon.lease))
                is_marked |= published.endpoint.state == "draining"
        if is_marked and sight.guard is not None:
            compares.append(Unchanged(*sight.guard))
        return compares, operations, after

    def _publication(self, run: RunId, before: Published | None, sight: Sight) -> Published | None:
        """What to put; None when nothing is."""
        same = before is not None and before.run == run
        directive = self._directive(run, before if same else None, sight)
        if directive == "hold" or (directive == "drain" and not same):
            return None
        state: Literal["up", "draining"] = "draining" if directive == "drain" else "up"
        returns = before is not None and before.endpoint.state == "draining" and state == "up"
        keeps = same and not returns and before is not None
        endpoint = Endpoint(
            id=before.endpoint.id if keeps and before is not None else self._daemon.timeline.new_id("e"),
            machine=self._daemon.address,
            session=self.session,
            instance=run.instance,
            revision=sight.runs[run].revision,
            state=state,
            ack=directive in ("drain", "expose"),
        )
        return None if before is not None and endpoint == before.endpoint else Published(endpoint, run)

    def _directive(self, run: RunId, before: Published | None, sight: Sight) -> Directive | None:
        if sight.directives is not None:
            return sight.directives.get(run)
        if before is None or not before.endpoint.ack:
            return None
        return "drain" if before.endpoint.state == "draining" else "expose"

    def _host_port(self, own: OwnContainer) -> str:
        return f"{self._daemon.address}:{own.port}"


RANGES_OF_LOAD_BALANCERS: tuple[Range, ...] = (KEYS.endpoints(SERVICE), KEYS.all_alive, KEYS.acks(SERVICE))


def endpoints_of(reading: Reading) -> dict[str, Endpoint]:
    """The endpoints of a reading of ``RANGES_OF_LOAD_BALANCERS``, by ``host:port``."""
    return {
        item.key.rpartition("/")[2]: decode(item.value, Endpoint, key=item.key) for item in reading.ranges[0]
    }
