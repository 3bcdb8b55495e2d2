"""Laws of the rotation: whatever happens to machines and store, only the listed ends remove an endpoint."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from orbitcontrol.model.state import Alive, Endpoint
from orbitcontrol.planning.orphans import (
    ORPHAN_TIMEOUT,
    PROOF_LASTS,
    Orphan,
    Reach,
    Writes,
    after_write,
    aged,
    followed,
    overdue,
    serving,
    standstill,
)
from orbitcontrol.planning.rotation import Place, Rotation, everywhere, rotate, without

SERVICES = ("api", "web")
MACHINES = tuple(f"10.0.0.{n}" for n in range(1, 7))
Wrote = Literal["yes", "no", "not tried"]


class Event(Struct, frozen=True, kw_only=True):
    """What happens to one machine, then so many seconds, then a write, and a look of the load balancer."""

    kind: Literal["nothing", "publish", "drain", "withdraw", "expire", "begin", "register", "restart", "wipe"]
    machine: str
    service: str
    seconds: float
    wrote: Wrote


events = st.builds(
    Event,
    kind=st.sampled_from(
        ("nothing",) * 6
        + ("publish",) * 3
        + ("drain", "withdraw", "expire", "expire", "begin", "register", "restart", "wipe")
    ),
    machine=st.sampled_from(MACHINES),
    service=st.sampled_from(SERVICES),
    seconds=st.sampled_from((0, 30, 60, 60, 89, 300)),
    wrote=st.sampled_from(("yes",) * 6 + ("no", "not tried")),
)


class Store:
    """Every machine, and what of it is in the store."""

    def __init__(self) -> None:
        self.published: dict[str, dict[str, Endpoint | None]] = {
            "web": {_address(machine): _endpoint(machine, 0) for machine in MACHINES},
            "api": {},
        }
        self.alive = {machine: Alive(session=f"{machine}/0", registered=True) for machine in MACHINES}
        self._sessions = dict.fromkeys(MACHINES, 0)

    def happens(self, event: Event) -> None:
        address = _address(event.machine)
        match event.kind:
            case "publish" | "drain" if event.machine in self.alive:
                other = SERVICES[1 - SERVICES.index(event.service)]
                self.published[other].pop(address, None)
                state: Literal["up", "draining"] = "up" if event.kind == "publish" else "draining"
                endpoint = _endpoint(event.machine, self._sessions[event.machine], state)
                self.published[event.service][address] = endpoint
            case "withdraw" if event.machine in self.alive:
                self.published[event.service].pop(address, None)
            case "expire":
                self._gone(event.machine)
            case "begin" if event.machine not in self.alive:
                self._sessions[event.machine] += 1
                self.alive[event.machine] = Alive(session=f"{event.machine}/{self._sessions[event.machine]}")
            case "register" if event.machine in self.alive:
                session = self.alive[event.machine].session
                self.alive[event.machine] = Alive(session=session, registered=True)
            case "wipe":
                for machine in MACHINES:
                    self._gone(machine)
            case _:
                pass

    def _gone(self, machine: str) -> None:
        self.alive.pop(machine, None)
        for entries in self.published.values():
            entries.pop(_address(machine), None)


class Balancer:
    """A load balancer's daemon, its decisions alone."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, Endpoint]] = {}
        self.orphans: tuple[Orphan, ...] = ()
        self.marks: dict[Place, float] = {}
        self.writes: Writes | None = None

    def look(self, store: Store, now: float) -> Rotation:
        rotation = rotate(
            known=self.known, published=store.published, alive=store.alive, confirmed=everywhere
        )
        still = standstill(rotation, known=self.known, writes=self.writes)
        orphans = followed(self.orphans, rotation=rotation, known=self.known)
        self.orphans, self.marks = aged(orphans, marks=self.marks, still=still, writes=self.writes, now=now)
        rotation = without(rotation, overdue(self.orphans, still=still))
        self.known = rotation.routes
        return rotation

    def restart(self) -> None:
        self.marks, self.writes = {}, None


class Oracle:
    """The most that can have been counted against each orphan, told from the history of everything."""

    def __init__(self) -> None:
        self._writes: list[tuple[float, Wrote]] = []
        self._may: dict[Place, list[tuple[float, float]]] = {}
        self._last: tuple[float, frozenset[Place]] = (0.0, frozenset())

    def wrote(self, at: float, how: Wrote) -> None:
        self._writes.append((at, how))

    def looked(self, at: float, may: frozenset[Place], orphans: frozenset[Place], *, ran: bool) -> None:
        """``may``: the orphans whose clock the rules of the store's side let run at this moment."""
        before, might = self._last
        self._may = {place: self._may.get(place, []) for place in orphans}
        for place in may & might if ran else ():
            self._may.setdefault(place, []).append((before, at))
        self._last = (at, may)

    def bound(self, place: Place) -> float:
        return sum(
            max(0.0, min(end, until) - max(begin, since))
            for begin, end in self._may.get(place, [])
            for since, until in self._proven()
        )

    def _proven(self) -> list[tuple[float, float]]:
        tried = [(at, how) for at, how in self._writes if how != "not tried"]
        return [
            (before, after)
            for (before, one), (after, other) in itertools.pairwise(tried)
            if one == other == "yes" and after - before <= PROOF_LASTS
        ]


def may_age(rotation: Rotation) -> frozenset[Place]:
    """The rules of the store's side in other words."""
    total = sum(len(entries) for entries in rotation.routes.values())
    if len(rotation.orphans) > total / 3:
        return frozenset()
    up = {
        Place(service, address)
        for service, entries in rotation.routes.items()
        for address, endpoint in entries.items()
        if endpoint.state == "up"
    } - rotation.orphans
    served = {place.service for place in up}
    return frozenset(place for place in rotation.orphans if place.service in served)


@given(st.lists(events, max_size=60))
@settings(max_examples=300)
def test_only_the_listed_ends_remove_an_endpoint_and_time_without_proof_never_counts(
    history: Sequence[Event],
) -> None:
    store, balancer, oracle, now = Store(), Balancer(), Oracle(), 0.0
    balancer.look(store, now)
    for event in history:
        store.happens(event)
        if event.kind == "restart":
            balancer.restart()
        now += event.seconds
        if event.kind != "restart":  # the time in which it was down ends with this look
            balancer.writes = {
                "yes": after_write(balancer.writes, at=now),
                "no": None,
                "not tried": balancer.writes,
            }[event.wrote]
        oracle.wrote(now, "no" if event.kind == "restart" else event.wrote)
        before = {(service, address) for service, entries in balancer.known.items() for address in entries}
        endpoints = balancer.known
        whole = rotate(known=endpoints, published=store.published, alive=store.alive, confirmed=everywhere)
        oracle.looked(now, may_age(whole), whole.orphans, ran=event.kind != "restart")
        rotation = balancer.look(store, now)
        for service, address in before:
            if address not in rotation.routes[service]:
                endpoint = endpoints[service][address]
                assert _ended(store, service, address, endpoint) or (
                    oracle.bound(Place(service, address)) >= ORPHAN_TIMEOUT
                    and Place(service, address) in may_age(whole)
                    and balancer.writes is not None
                )
        for orphan in balancer.orphans:
            assert orphan.counted <= oracle.bound(orphan.place) + 1e-6


@given(st.lists(events, max_size=60))
@settings(max_examples=200)
def test_looking_again_changes_nothing(history: Sequence[Event]) -> None:
    store, balancer, now = Store(), Balancer(), 0.0
    for event in history:
        store.happens(event)
        now += event.seconds
        balancer.writes = after_write(balancer.writes, at=now)
        once = balancer.look(store, now)
        left = tuple(orphan for orphan in balancer.orphans if orphan.place in once.orphans)
        again = balancer.look(store, now)
        assert (again.routes, again.orphans, balancer.orphans) == (once.routes, once.orphans, left)
        assert not again.timed_out


@given(st.lists(events, max_size=30), st.sets(st.sampled_from(MACHINES)))
@settings(max_examples=200)
def test_a_service_loses_no_published_server_and_never_its_last_one(
    history: Sequence[Event], unreached: set[str]
) -> None:
    store, balancer, now = Store(), Balancer(), 0.0
    for event in history:
        store.happens(event)
        now += event.seconds
        rotation = balancer.look(store, now)
        orphans = tuple(
            Orphan(
                service=orphan.service,
                address=orphan.address,
                reach=Reach(out=orphan.address.rpartition(":")[0] in unreached),
            )
            for orphan in balancer.orphans
        )
        served = serving(rotation, orphans)
        for service, entries in rotation.routes.items():
            up = {address for address, endpoint in entries.items() if endpoint.state == "up"}
            assert bool(served[service]) >= bool(up)
            published = {address for address in up if rotation.is_published(Place(service, address))}
            assert published <= served[service].keys()


def test_an_orphan_among_others_ends_after_the_time_that_was_proven() -> None:
    store, balancer = Store(), Balancer()
    balancer.look(store, 0)
    store.happens(Event(kind="expire", machine=MACHINES[0], service="web", seconds=0, wrote="yes"))
    ended: list[float] = []
    for now in range(0, 1200, 60):
        balancer.writes = after_write(balancer.writes, at=now)
        if balancer.look(store, now).timed_out:
            ended.append(now)
    assert ended == [ORPHAN_TIMEOUT]


def _ended(store: Store, service: str, address: str, endpoint: Endpoint) -> bool:
    """Withdrawn, or its address is another service's."""
    if any(address in entries for other, entries in store.published.items() if other != service):
        return True
    alive = store.alive.get(endpoint.machine)
    return alive is not None and (alive.registered or alive.session == endpoint.session)


def _address(machine: str) -> str:
    return f"{machine}:80"


def _endpoint(machine: str, session: int, state: Literal["up", "draining"] = "up") -> Endpoint:
    return Endpoint(id=f"{machine}/{session}", machine=machine, session=f"{machine}/{session}", state=state)
