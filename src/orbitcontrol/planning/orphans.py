"""Orphans: endpoints whose machine's daemon is gone, which says nothing about the service.

An orphan keeps its last state, and stays in rotation as long as this load balancer reaches it:
HAProxy's own verdict where its server line has a ``check``, else connects of the daemon. Three
failed connects in a row take it out, two good ones bring it back, and twice as many after each
further departure: one that flaps costs ever fewer changes.

Only time ends what nobody withdrew: ``ORPHAN_TIMEOUT``, on a clock that runs while all of this
holds, because each is what an outage of the store or of the network lacks:

- this machine's own writes to the store succeed (a store that takes none, NOSPACE for instance,
  keeps the daemons that are well from publishing);
- at most a third of all known endpoints are orphaned (a mass expiry is an event of the store);
- the service has a published endpoint (so that its last server is never removed).

The clock is counted, not read: a stretch between two writes that succeeded, less than
``PROOF_LASTS`` apart and with no failed one between, is added once the second one is known.
``marks`` say up to when each orphan's time was looked at. They live as long as the daemon, so the
time in which it does not run is never counted; ``Orphan.counted`` is kept over its restarts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct, structs

from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.rotation import Place, Rotation, Routes

ORPHAN_TIMEOUT = 600.0
"""Seconds of proven time after which an orphan is removed."""

PROOF_EVERY = 60.0
"""Seconds between the writes of a load balancer that has orphans."""

PROOF_LASTS = 90.0
"""Seconds between two writes beyond which nothing is proven about the time between them."""

FALL = 3
RISE = 2
LONGEST_RISE = 32

_SHARE = 3
"""One in so many of all known endpoints may be orphaned while the clock runs."""

_MINUTES = (1, 2, 5, 10)
"""The steps in which the time that is left is told: each change of the text is a write to the store."""


class Writes(Struct, frozen=True):
    """This machine's writes to the store: from ``since`` until ``until`` all succeeded, with no long pause.

    Both are seconds of a clock that only goes forward, and the begin of a write.
    """

    since: float
    until: float


def after_write(before: Writes | None, *, at: float) -> Writes:
    """After a write that began at ``at`` and succeeded; after one that failed there are none."""
    if before is None or at - before.until > PROOF_LASTS:
        return Writes(at, at)
    return Writes(before.since, at)


class Reach(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Whether the daemon reaches an orphan.

    ``contrary`` counts the answers in a row that say the opposite of ``out``; ``departures`` how
    often it went out.
    """

    out: bool = False
    departures: int = 0
    contrary: int = 0


def after_connect(reach: Reach, *, reached: bool) -> Reach:
    """After one more connect. It takes ``FALL`` failures to go out, and ever more passes to return."""
    if reached is not reach.out:
        return structs.replace(reach, contrary=0)
    contrary = reach.contrary + 1
    if reach.out:
        needed = min(RISE << min(reach.departures - 1, LONGEST_RISE), LONGEST_RISE)
        return Reach(departures=reach.departures) if contrary >= needed else _counting(reach, contrary)
    return (
        Reach(out=True, departures=reach.departures + 1) if contrary >= FALL else _counting(reach, contrary)
    )


class Orphan(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What is remembered of one orphan: the seconds counted against it, and whether it is reached."""

    service: str
    address: str
    counted: float = 0.0
    reach: Reach = Reach()

    @property
    def place(self) -> Place:
        return Place(self.service, self.address)


def followed(orphans: Iterable[Orphan], *, rotation: Rotation, known: Routes) -> tuple[Orphan, ...]:
    """The orphans of now: those that went on, and new ones; what is no orphan any more is forgotten.

    Of a service that the rotation says nothing about yet they stay as they are.
    """
    before = {orphan.place: orphan for orphan in orphans}
    unlisted = {
        place
        for place in before
        if place.service not in rotation.routes and place.address in known.get(place.service, {})
    }
    return tuple(
        before.get(place) or Orphan(service=place.service, address=place.address)
        for place in sorted(rotation.orphans | unlisted)
    )


def standstill(rotation: Rotation, *, known: Routes, writes: Writes | None) -> dict[Place, str]:
    """Why the clock of an orphan does not run; those that are missing grow older."""
    everywhere = _standstill_of_all(rotation, known=known, writes=writes)
    reasons = {place: everywhere or _standstill_of(place, rotation) for place in rotation.orphans}
    return {place: reason for place, reason in reasons.items() if reason}


def aged(
    orphans: Iterable[Orphan],
    *,
    marks: Mapping[Place, float],
    still: Collection[Place],
    writes: Writes | None,
    now: float,
) -> tuple[tuple[Orphan, ...], dict[Place, float]]:
    """The orphans with the proven time counted, and the marks from which to count on."""
    older: list[Orphan] = []
    after: dict[Place, float] = {}
    for orphan in orphans:
        mark = marks.get(orphan.place, now)
        if orphan.place in still:  # begins anew when its clock may run again
            older.append(orphan)
        elif writes is None or writes.until <= mark:
            older.append(orphan)
            after[orphan.place] = mark
        else:
            proven = writes.until - max(mark, writes.since)
            older.append(structs.replace(orphan, counted=orphan.counted + proven))
            after[orphan.place] = writes.until
    return tuple(older), after


def overdue(orphans: Iterable[Orphan], *, still: Collection[Place]) -> frozenset[Place]:
    """The orphans whose time is over, now that their clock may run."""
    return frozenset(
        orphan.place for orphan in orphans if orphan.counted >= ORPHAN_TIMEOUT and orphan.place not in still
    )


def serving(
    rotation: Rotation, orphans: Iterable[Orphan] = (), *, checked: Collection[Place] = ()
) -> dict[str, dict[str, Endpoint]]:
    """The endpoints that get new connections, by service; orphans that are ``checked`` are left to HAProxy.

    A service without any gets its draining orphans back, as far as they are reached; without those
    its unreachable ones stay: the last servers are never taken out for being orphans. What is unfit
    is out in any case: that is no lack of knowledge.
    """
    unreached = {orphan.place for orphan in orphans if orphan.reach.out} - set(checked)
    return {
        service: _serving_of(
            entries,
            unfit=_addresses(rotation.unfit, service),
            orphans=_addresses(rotation.orphans, service),
            unreached=_addresses(unreached, service),
        )
        for service, entries in rotation.routes.items()
    }


def told(orphan: Orphan, endpoint: Endpoint, *, serves: bool, checked: bool, standstill: str) -> str:
    """What is wrong with an orphan, in words that change seldom: each change is a write to the store."""
    left = ORPHAN_TIMEOUT - orphan.counted
    minutes = next((step for step in _MINUTES if left <= step * 60), _MINUTES[-1])
    unit = "minute" if minutes == 1 else "minutes"
    time = f"it is removed in at most {minutes} {unit}"
    if standstill:
        time = f"its clock, with at most {minutes} {unit} left, stands still: {standstill}"
    where = _whereabouts(endpoint, serves=serves, checked=checked, out=orphan.reach.out)
    return f"its machine {endpoint.machine} is gone without withdrawing it; {where}; {time}"


def _counting(reach: Reach, contrary: int) -> Reach:
    return structs.replace(reach, contrary=contrary)


def _standstill_of_all(rotation: Rotation, *, known: Routes, writes: Writes | None) -> str:
    if known.keys() - rotation.routes.keys():
        return "the endpoints of other services are not listed yet"
    if len(rotation.orphans) * _SHARE > sum(map(len, rotation.routes.values())):
        return "more than a third of all endpoints are orphaned"
    return "" if writes else "this machine's writes to the store do not succeed"


def _standstill_of(place: Place, rotation: Rotation) -> str:
    if place in rotation.suspected:
        return "its withdrawal could not be confirmed by reading the store"
    for address, endpoint in rotation.routes[place.service].items():
        if endpoint.state == "up" and rotation.is_published(Place(place.service, address)):
            return ""
    return "its service has no published endpoint"


def _addresses(places: Iterable[Place], service: str) -> frozenset[str]:
    return frozenset(place.address for place in places if place.service == service)


def _serving_of(
    entries: Mapping[str, Endpoint],
    *,
    unfit: frozenset[str],
    orphans: frozenset[str],
    unreached: frozenset[str],
) -> dict[str, Endpoint]:
    up = {
        address: endpoint
        for address, endpoint in entries.items()
        if endpoint.state == "up" and address not in unfit
    }
    reached = (
        {address: endpoint for address, endpoint in up.items() if address not in unreached}
        if unreached
        else up
    )
    if reached:
        return reached
    returning = {
        address: endpoint
        for address, endpoint in entries.items()
        if endpoint.state == "draining" and address in orphans - unreached - unfit
    }
    return returning or up


def _whereabouts(endpoint: Endpoint, *, serves: bool, checked: bool, out: bool) -> str:
    if endpoint.state == "draining":
        return (
            "it was draining and is back in rotation as the last server of its service"
            if serves
            else "it was draining and gets nothing new"
        )
    if checked:
        return "it stays in rotation, where HAProxy's own check decides"
    if not out:
        return "it stays in rotation while this machine can connect to it"
    if serves:
        return "this machine cannot connect to it, but it stays in rotation as the last of its service"
    return "it is out of rotation because this machine cannot connect to it, and tried again"
