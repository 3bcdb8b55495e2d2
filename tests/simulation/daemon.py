"""A simulated daemon: a process that can die, freeze and be cut off from the store between any two steps.

A request that was sent is carried out whatever becomes of the daemon; what the daemon does next waits until
it wakes, however much later that is, and never happens when it died. Its session is that of a lease, which is
resumed after a restart while it lives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import LeaseLost, StoreAmbiguous, StoreError, StoreUnreachable
from orbitcontrol.model.state import Alive
from orbitcontrol.model.stored import Compare, Operation, Put, Range, Reading
from simulation.memory_store import MemoryCore
from simulation.timeline import Timeline

T = TypeVar("T")

KEYS = Keys()
TTL = 10.0
_TIMEOUT = 3.0


class Faults:
    """How often what goes wrong, of all requests; all 0 at the end of a simulation."""

    def __init__(self, *, ambiguous: float = 0.0, docker: float = 0.0) -> None:
        self.ambiguous = ambiguous
        self.docker = docker


class Daemon:
    """What daemons of machines and of load balancers have in common."""

    def __init__(self, address: str, timeline: Timeline, core: MemoryCore, faults: Faults) -> None:
        self.address = address
        self.timeline = timeline
        self.core = core
        self.faults = faults
        self.life = 0
        """Which process this is."""
        self.runs = False
        self.frozen = False
        self.split = False
        """Cut off from the store, and from nothing else."""
        self.host_up = True
        self.isolated = False
        """Cut off from everybody."""
        self.lost_since: float | None = 0.0
        """Since when there is no lease of it, in truth."""
        self.session = ""
        self.lease = 0
        self.registered = False
        self.saved_lease = 0
        self.saved_session = ""
        self._deferred: list[Callable[[], None]] = []
        self._is_pending: set[str] = set()

    # --- life and death --------------------------------------------------------------------------

    def start(self) -> None:
        """A new process."""
        if self.runs or not self.host_up:
            return
        self.life += 1
        self.runs, self.frozen, self._deferred, self._is_pending = True, False, [], set()
        self.session, self.lease, self.registered = "", 0, False
        self.forget()
        self.after(self.timeline.between(0.05, 0.5), self._join)

    def crash(self) -> None:
        """The process is gone, with all that it knew."""
        self.runs = False
        self.life += 1
        self.session = ""

    def freeze(self) -> None:
        """It takes no steps."""
        self.frozen = self.runs

    def wake_up(self) -> None:
        """It goes on with what it was about to do."""
        if not self.frozen:
            return
        self.frozen = False
        deferred, self._deferred = self._deferred, []
        for happens in deferred:
            if self.frozen or not self.runs:
                break
            happens()

    def forget(self) -> None:
        """What a new process does not know."""
        raise NotImplementedError

    def joined(self) -> None:
        """It has a session: a new one, or the one before."""
        raise NotImplementedError

    @property
    def hears(self) -> bool:
        """True when news of the store reach it."""
        return self.runs and not (self.split or self.isolated)

    # --- time and requests -----------------------------------------------------------------------

    def after(self, delay: float, happens: Callable[[], None]) -> None:
        """Does something later, if this process is still there; when it wakes, if it sleeps then."""
        life = self.life

        def due() -> None:
            if life != self.life:
                return
            if self.frozen:
                self._deferred.append(due)
            else:
                happens()

        self.timeline.after(delay, due)

    def soon(self, name: str, happens: Callable[[], None], delay: float = 0.02) -> None:
        """Does something later, once, however often it is asked for meanwhile."""
        if name in self._is_pending:
            return
        self._is_pending.add(name)

        def due() -> None:
            self._is_pending.discard(name)
            happens()

        self.after(delay, due)

    def call(self, request: Callable[[], T], then: Callable[[T | StoreError], None], *, writes: bool) -> None:
        """Asks the store; ``then`` gets the answer, or the error."""
        between = self.timeline.between

        def arrives() -> None:
            if self.split or self.isolated or not self.host_up:
                self.after(_TIMEOUT, lambda: then(StoreUnreachable("no answer")))
                return
            answer: T | StoreError
            try:
                answer = request()
            except StoreError as error:
                answer = error
            is_lost = writes and self.timeline.chance(self.faults.ambiguous)
            self.after(between(0.001, 0.03), lambda: self._hears(answer, then, writes=writes, lost=is_lost))

        self.timeline.after(between(0.001, 0.03), arrives)

    def _hears(
        self, answer: T | StoreError, then: Callable[[T | StoreError], None], *, writes: bool, lost: bool
    ) -> None:
        if not (lost or self.split or self.isolated):
            then(answer)
            return
        error: StoreError = StoreAmbiguous("it may have happened") if writes else StoreUnreachable("cut off")
        self.after(_TIMEOUT, lambda: then(error))

    def read(self, ranges: tuple[Range, ...], then: Callable[[Reading | StoreError], None]) -> None:
        """Reads ranges at one revision."""
        self.call(lambda: self.core.read(*ranges), then, writes=False)

    def commit(
        self,
        compares: tuple[Compare, ...],
        operations: tuple[Operation, ...],
        then: Callable[[int | StoreError], None],
    ) -> None:
        """Commits a transaction."""
        self.call(lambda: self.core.commit(compares, operations), then, writes=True)

    # --- the session -----------------------------------------------------------------------------

    def _join(self) -> None:
        self.session, self.registered = "", False
        lease, session = self.saved_lease, self.saved_session

        def resumes() -> bool:
            self.core.keep_alive(lease)
            found = self.core.read(Range.single(KEYS.alive(self.address))).ranges[0]
            return bool(found) and decode(found[0].value, Alive, key="").session == session

        def resumed(answer: object) -> None:
            if answer is True:
                self._begin(lease, session)
            elif isinstance(answer, StoreUnreachable | StoreAmbiguous):
                self.after(1.0, self._join)
            else:
                self._register()

        if lease:
            self.call(resumes, resumed, writes=False)
        else:
            self._register()

    def _register(self) -> None:
        session = self.timeline.new_id("session")

        def registers() -> int:
            lease = self.core.grant(TTL)
            self._expire_later(lease)
            self.core.commit((), (Put(KEYS.alive(self.address), encode(Alive(session=session)), lease),))
            return lease

        def registered(answer: int | StoreError) -> None:
            if isinstance(answer, StoreError):
                self.after(1.0, self._join)
                return
            self.saved_lease, self.saved_session = answer, session
            self._begin(answer, session)

        self.call(registers, registered, writes=True)

    def _expire_later(self, lease: int) -> None:
        """Leases end on time, not when somebody looks."""

        def due() -> None:
            deadline = self.core.deadline(lease)
            if deadline is not None and deadline > self.timeline.now:
                self.timeline.after(deadline - self.timeline.now, due)
            else:
                self.core.expire()

        self.timeline.after(TTL, due)

    def _begin(self, lease: int, session: str) -> None:
        self.lease, self.session = lease, session
        self._keep(lease)
        self.joined()

    def _keep(self, lease: int) -> None:
        if lease != self.lease:
            return

        def kept(answer: float | StoreError) -> None:
            if lease != self.lease:
                return
            if isinstance(answer, LeaseLost):
                self.lease = 0
                self._join()
            else:
                self.after(TTL / 3 if not isinstance(answer, StoreError) else 1.0, lambda: self._keep(lease))

        self.call(lambda: self.core.keep_alive(lease), kept, writes=False)

    def register(self) -> None:
        """Tells that each service was judged."""
        session, lease = self.session, self.lease

        def told(answer: int | StoreError) -> None:
            if isinstance(answer, StoreError) and session == self.session:
                self.registered = False

        self.registered = True
        alive = Put(KEYS.alive(self.address), encode(Alive(session=session, registered=True)), lease)
        self.commit((), (alive,), told)
