"""What the daemon's loops tell each other.

The loops never call one another. Each publishes what it knows in a cell of the board and wakes on
the cells it depends on; a cell holds only the latest value, so a slow loop sees the newest state
and never a backlog. The way through the board is the way of a service to its users:

    desired ──► aims ──► runs ──► verdicts ──► published
    (store)    (rollouts) (docker) (checks)     (store)

``directives`` run against the stream: the rollouts loop says there which runs are to drain, and the
endpoints loop marks them and tells in ``directed`` that it has.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from msgspec import Struct

from orbitcontrol.agent.trace import Trace
from orbitcontrol.log import Log
from orbitcontrol.model.configuration import Desired
from orbitcontrol.model.rollouts import MachineDrain, Rollout
from orbitcontrol.model.runs import Run, RunId, Verdict
from orbitcontrol.model.state import Endpoint, InstanceReport, Problem, ProxyVerdict, ProxyWorkers, Reload
from orbitcontrol.planning.container_specs import OwnContainer, WantedContainer
from orbitcontrol.planning.orphans import Writes
from orbitcontrol.planning.rollout_steps import Directive

_log = Log(__name__)

T = TypeVar("T")


class Wake:
    """A doorbell with reasons: however often it rings before somebody looks, it is one visit."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._reasons: set[str] = set()

    def ring(self, reason: str) -> None:
        """Asks for a visit."""
        self._reasons.add(reason)
        self._event.set()

    async def wait(self, timeout: float | None = None) -> frozenset[str]:
        """Waits for a ring; its reasons, or ``{"tick"}`` after ``timeout`` seconds without one."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return frozenset({"tick"})
        reasons = frozenset(self._reasons)
        self._reasons.clear()
        self._event.clear()
        return reasons


class Cell(Generic[T]):
    """One value with subscribers; setting an equal value wakes nobody."""

    def __init__(self, name: str, value: T) -> None:
        self.name = name
        self._value = value
        self._subscribers: list[Wake] = []
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def value(self) -> T:
        return self._value

    def set(self, value: T) -> None:
        """Replaces the value and, if it differs, wakes everyone who waits for it."""
        if value == self._value:
            return
        self._value = value
        for wake in self._subscribers:
            wake.ring(self.name)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def subscribe(self, wake: Wake) -> None:
        """Rings ``wake`` at each change, with the cell's name as the reason."""
        self._subscribers.append(wake)

    async def wait_for(self, holds: Callable[[T], bool], *, timeout: float) -> bool:
        """True once ``holds(value)``; False after ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not holds(self._value):
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
        except TimeoutError:
            return False
        return True


class Problems:
    """What is wrong on this machine, by who noticed it and what it is about.

    Each problem is logged once, and its end once, however many noticed it and however often.
    """

    def __init__(self) -> None:
        self.cell: Cell[tuple[Problem, ...]] = Cell("problems", ())
        self._by_owner: dict[str, dict[str, str]] = {}

    def report(self, owner: str, problems: Mapping[str, str]) -> None:
        """Replaces everything that ``owner`` had reported: subject → reason."""
        self._by_owner[owner] = dict(problems)
        merged = {
            (subject, reason) for reported in self._by_owner.values() for subject, reason in reported.items()
        }
        found = tuple(Problem(subject=subject, reason=reason) for subject, reason in sorted(merged))
        self._log_changes(found)
        self.cell.set(found)

    def _log_changes(self, found: tuple[Problem, ...]) -> None:
        before = self.cell.value
        for problem in found:
            if problem not in before:
                _log.warning("problem", subject=problem.subject, reason=problem.reason)
        for subject in {one.subject for one in before} - {one.subject for one in found}:
            _log.info("problem ended", subject=subject)


class History:
    """How far this daemon has seen its store, over all that it mirrors, and whether it ever went back.

    A store's revision only grows, unless a backup was put back or another store took its place.
    """

    def __init__(self) -> None:
        self.went_back: Cell[float] = Cell("store went back", -math.inf)
        """When this was noticed last, by the monotonic clock."""
        self.furthest = 0
        """The highest revision seen. Whoever reads takes it *before*: an answer may be overtaken."""

    def saw(self, revision: int, *, before: int = 0, rewritten: bool = False) -> None:
        """Notes an answer of the store; ``before`` is what ``furthest`` was when it was asked.

        ``rewritten`` when the answer contradicts what was seen, whatever its revision.
        """
        if revision >= before and not rewritten:
            self.furthest = max(self.furthest, revision)
            return
        _log.warning("the store went back: it was restored or replaced", revision=revision, seen=before)
        self.furthest = revision
        self.went_back.set(time.monotonic())


class Standing(Struct, frozen=True, kw_only=True):
    """What the store says of rollouts at ``revision``: the newest one of each service of this machine."""

    revision: int
    rollouts: Mapping[str, Rollout] = {}
    drain: MachineDrain | None = None


class Guard(Struct, frozen=True):
    """The key of a slot, and the revision of the store at which it was last written."""

    key: str
    revision: int


class Directives(Struct, frozen=True, kw_only=True):
    """What is to become of endpoints, by run; what a service's slot must be when one is marked for it."""

    runs: Mapping[RunId, Directive] = {}
    guards: Mapping[str, Guard] = {}


class Session(Struct, frozen=True, kw_only=True):
    """One life of the daemon under one lease; ``resumed`` when it began in an earlier process."""

    id: str
    lease: int
    resumed: bool


class RolloutCells:
    """What the rollouts loop and the others tell each other."""

    def __init__(self) -> None:
        self.standing: Cell[Standing | None] = Cell("standing", None)
        """The rollouts and the drain of this machine, read together with what is desired."""
        self.own: Cell[tuple[OwnContainer, ...] | None] = Cell("own", None)
        """This machine's containers, ended ones too; None until they were looked at, and while Docker is
        silent."""
        self.aims: Cell[Mapping[str, tuple[WantedContainer, ...]]] = Cell("aims", {})
        """What each service's containers are to be now. Nothing is started of a service that is missing."""
        self.in_hand: Cell[frozenset[str]] = Cell("in_hand", frozenset())
        """The services whose containers the rollouts loop alone starts and removes for now."""
        self.busy: Cell[frozenset[str]] = Cell("busy", frozenset())
        """The services that the containers loop has an action under way for."""
        self.directives: Cell[Directives | None] = Cell("directives", None)
        """What is to become of endpoints in a rollout; None until it is known: then they stay as they are."""
        self.directed: Cell[Directives | None] = Cell("directed", None)
        """The directives that are carried out in the store."""
        self.offered: Cell[frozenset[RunId]] = Cell("offered", frozenset())
        """The runs that this daemon ever was about to publish: somebody may have been sent to them."""
        self.cut_off: Cell[frozenset[str]] = Cell("cut_off", frozenset())
        """The services in hand whose rollout cannot go on without the store: what ended is started again."""
        self.publications: Cell[Mapping[RunId, Endpoint]] = Cell("publications", {})
        """The endpoints that this machine has in the store, by their run."""


class Board:
    """All the cells of one daemon."""

    def __init__(self) -> None:
        self.session: Cell[Session | None] = Cell("session", None)
        self.registered: Cell[str] = Cell("registered", "")
        """The session that is registered: each of its services was judged."""
        self.lease_doubt = Wake()
        """Rung by whoever has reason to think that the lease is gone."""
        self.relisted: Cell[int] = Cell("relisted", 0)
        """How often a watch had to begin anew: what the store holds may have changed unseen, also what
        this machine wrote (the store may have been restored from a backup)."""
        self.history = History()
        self.desired: Cell[Desired | None] = Cell("desired", None)
        """None until a configuration is known: nothing is then started, stopped or changed."""
        self.runs: Cell[tuple[Run, ...] | None] = Cell("runs", None)
        """What runs; None until the containers were looked at for the first time."""
        self.unseen: Cell[frozenset[str]] = Cell("unseen", frozenset())
        """Services whose containers cannot be seen now, because Docker is silent or their configuration
        is held: that ``runs`` has none of them says nothing."""
        self.verdicts: Cell[Mapping[RunId, Verdict]] = Cell("verdicts", {})
        self.published: Cell[frozenset[RunId]] = Cell("published", frozenset())
        """The runs whose endpoints are in the store, as far as this daemon knows."""
        self.stands_for: Cell[Mapping[str, RunId]] = Cell("stands_for", {})
        """Which run each endpoint of this machine was published for, by the endpoint's id; known without
        the store, from the state directory."""
        self.publisher: Cell[str] = Cell("publisher", "")
        """The session that ``published`` was last told of: while it is an earlier one than ``session``,
        what is published may be gone with that one's lease."""
        self.proven: Cell[frozenset[RunId] | None] = Cell("proven", None)
        """The runs that this daemon's resumed session had published when it started, which need no
        new proof while it lasts; None until that is known."""
        self.presumed: Cell[frozenset[RunId]] = Cell("presumed", frozenset())
        """The runs that are taken for up because they were: published in the daemon's last life, while the
        store cannot say whether that session goes on, or up when a lease was found to be lost. They are not
        published anew on that alone; the health loop settles which of them are proven."""
        self.instances: Cell[tuple[InstanceReport, ...]] = Cell("instances", ())
        self.proxy_verdict: Cell[ProxyVerdict | None] = Cell("proxy_verdict", None)
        self.reloads: Cell[tuple[Reload, ...]] = Cell("reloads", ())
        """The newest reloads of HAProxy, in their order."""
        self.proxy_workers: Cell[ProxyWorkers | None] = Cell("proxy_workers", None)
        """HAProxy's processes that are still leaving after reloads; None while there are none."""
        self.balances: Cell[frozenset[str]] = Cell("balances", frozenset())
        """The services that this machine's HAProxy routes to."""
        self.orphaned: Cell[bool] = Cell("orphaned", False)
        """This load balancer has orphans: the machine's record is written regularly, as a proof that the
        store takes writes."""
        self.writes: Cell[Writes | None] = Cell("writes", None)
        """The writes of the machine's record; None when the last one failed."""
        self.rollouts = RolloutCells()
        self.problems = Problems()
        self.trace = Trace()
