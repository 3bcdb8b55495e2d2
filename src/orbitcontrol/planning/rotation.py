"""Which endpoints a load balancer knows: gone is not the same as withdrawn.

An endpoint whose key is in the store is routed to. One whose key is absent is judged by its
machine: alive and done with its registration, or alive with the very session that published the
key, it has *withdrawn* the endpoint, which goes out at once. Otherwise the daemon is gone, which
says nothing about the service: the endpoint is *orphaned* and stays, until its ``host:port`` is
published for another service. A value that nobody can read says nothing either: what was known of
the endpoint stays.

An absence counts as a withdrawal only at places that are ``confirmed``: whose keys were looked for in
one reading of the store, together with the ``alive`` records. Separate watches have no common order: an
expired lease can show its deleted endpoints before its deleted ``alive`` record, and a new session its
``Registered`` before the endpoints it published. Until then it is ``suspected``, and an orphan.

What becomes of an orphan (whether it can be reached, and for how long it stays) is decided in
``planning.orphans``; of what a store is believed that went back, in ``planning.restored``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from msgspec import Struct, structs

from orbitcontrol.model.state import Alive, Endpoint

Routes = Mapping[str, Mapping[str, Endpoint]]
"""Service → ``host:port`` → endpoint."""

Published = Mapping[str, Mapping[str, Endpoint | None]]
"""The same from the store; None for a value that cannot be read."""


class Place(Struct, frozen=True, order=True):
    """One endpoint's place: its service and its ``host:port``."""

    service: str
    address: str


def everywhere(_: Place) -> bool:
    """All places were looked at in one reading."""
    return True


def nowhere(_: Place) -> bool:
    """What is known comes from the watches alone."""
    return False


class Sight(Struct, frozen=True, kw_only=True):
    """Endpoints of some services and every ``alive`` record, at one revision of the store.

    ``written`` and ``spoken`` are the revisions at which the endpoints, and the records of machines,
    were last put.
    """

    endpoints: Published
    alive: Mapping[str, Alive]
    revision: int = 0
    written: Mapping[Place, int] = {}
    spoken: Mapping[str, int] = {}


class Rotation(Struct, frozen=True, kw_only=True):
    """What is known to be routed to, and why the rest is not.

    ``routes`` holds draining and unreachable endpoints too: they are known, but not every template
    sees them (``planning.orphans.serving``). ``suspected`` ones are among the ``orphans``. ``unproven``
    ones are in a store that went back, which is not believed about them. ``unfit`` ones are endpoints of
    this very machine that get nothing although nobody withdrew them (``planning.fitness``). Of ``unlisted``
    services the store has said nothing yet.
    """

    routes: dict[str, dict[str, Endpoint]]
    orphans: frozenset[Place] = frozenset()
    suspected: frozenset[Place] = frozenset()
    withdrawn: frozenset[Place] = frozenset()
    replaced: frozenset[Place] = frozenset()
    unreadable: frozenset[Place] = frozenset()
    unproven: frozenset[Place] = frozenset()
    timed_out: frozenset[Place] = frozenset()
    unfit: frozenset[Place] = frozenset()
    unlisted: frozenset[str] = frozenset()

    def is_published(self, place: Place) -> bool:
        """True when the store has the endpoint, with a value that can be read and is believed."""
        return (
            place.address in self.routes.get(place.service, {})
            and place not in self.orphans
            and place not in self.unreadable
            and place not in self.unproven
            and place.service not in self.unlisted
        )


def rotate(
    *,
    known: Routes,
    published: Published,
    alive: Mapping[str, Alive],
    confirmed: Callable[[Place], bool],
    unproven: Collection[Place] = frozenset(),
) -> Rotation:
    """The rotation of all services in ``published``; what was known of others is left aside.

    What the store says of ``unproven`` places, or that it says nothing, does not count.
    """
    routes: dict[str, dict[str, Endpoint]] = {}
    unreadable: set[Place] = set()
    absent: dict[str, set[Place]] = {
        "orphans": set(),
        "suspected": set(),
        "withdrawn": set(),
        "replaced": set(),
    }
    believed: Published = (
        published
        if not unproven
        else {
            service: {
                address: None if Place(service, address) in unproven else endpoint
                for address, endpoint in entries.items()
            }
            for service, entries in published.items()
        }
    )
    none_absent = all(
        known.get(service, {}).keys() <= entries.keys() for service, entries in believed.items()
    )
    owners = {} if none_absent else _owners(believed)
    for service, entries in believed.items():
        before = known.get(service, {})
        routes[service] = {address: endpoint for address, endpoint in entries.items() if endpoint}
        for address in entries.keys() - routes[service].keys():
            unreadable.add(Place(service, address))
            if address in before:
                routes[service][address] = before[address]
        for address in before.keys() - entries.keys():
            place = Place(service, address)
            fate = _fate(before[address], owners.get(address), {} if place in unproven else alive)
            if fate == "withdrawn" and not confirmed(place):
                fate = "suspected"
            absent[fate].add(place)
            if fate in ("orphans", "suspected"):
                routes[service][address] = before[address]
    return Rotation(
        routes=routes,
        unreadable=frozenset(unreadable.difference(unproven)),
        unproven=frozenset(unreadable.intersection(unproven)),
        orphans=frozenset(absent["orphans"] | absent["suspected"]),
        suspected=frozenset(absent["suspected"]),
        withdrawn=frozenset(absent["withdrawn"]),
        replaced=frozenset(absent["replaced"]),
    )


def with_unlisted(rotation: Rotation, *, known: Routes, orphans: Collection[Place]) -> Rotation:
    """The rotation with all that was known of services that it has nothing of, because nobody could ask.

    What was an orphan among it, still is one.
    """
    unlisted = known.keys() - rotation.routes.keys()
    return structs.replace(
        rotation,
        routes={**rotation.routes, **{service: dict(known[service]) for service in unlisted}},
        orphans=rotation.orphans
        | {place for place in orphans if place.service in unlisted and place.address in known[place.service]},
        unlisted=frozenset(unlisted),
    )


def at(published: Published, places: Collection[Place]) -> Published:
    """What is published at these places."""
    return {
        service: {
            address: endpoint for address, endpoint in entries.items() if Place(service, address) in places
        }
        for service, entries in published.items()
    }


def overlaid(seen: Published, looked: Published, *, places: Collection[Place]) -> Published:
    """What was seen, and at ``places`` what was found by looking there."""
    newer = dict(seen)
    for service in {place.service for place in places}:
        entries = dict(seen.get(service, {}))
        for place in places:
            if place.service == service:
                entries.pop(place.address, None)
        newer[service] = {**entries, **looked.get(service, {})}
    return newer


def without(rotation: Rotation, timed_out: frozenset[Place]) -> Rotation:
    """The rotation without the orphans whose time is over."""
    return structs.replace(
        rotation,
        routes={
            service: {
                address: endpoint
                for address, endpoint in entries.items()
                if Place(service, address) not in timed_out
            }
            for service, entries in rotation.routes.items()
        },
        orphans=rotation.orphans - timed_out,
        timed_out=timed_out,
    )


def _fate(endpoint: Endpoint, owner: str | None, alive: Mapping[str, Alive]) -> str:
    if owner is not None:
        return "replaced"
    machine = alive.get(endpoint.machine)
    if machine is not None and (machine.registered or machine.session == endpoint.session):
        return "withdrawn"
    return "orphans"


def _owners(published: Published) -> dict[str, str]:
    """Which service each published ``host:port`` belongs to; an address has one machine and one use."""
    return {
        address: service
        for service, entries in published.items()
        for address, endpoint in entries.items()
        if endpoint is not None
    }
