"""What a load balancer believes of a store that went back: one restored from a backup, or another one.

Such a store says what once was. Endpoints return whose service ended long ago and whose address may be
another's by now, with the lease, and the ``alive`` record, of a daemon that is gone too; both end only
when the lease does. And endpoints that were published after the backup are missing, while the record
of their machine, which lives, is there: in a store that goes on, that means a withdrawal.

No revision tells the old keys from those written since, because the store counts the same numbers
again. So the load balancer reads everything once when it has noticed, and from then on believes

* an endpoint that it did not know, or knew otherwise, only when ``alive/<machine>`` carries its very
  session, and one of the two was written after that reading: nobody can write under a lease that is
  gone, and a daemon that writes is in sight;
* the absence of one that was missing in that reading only when its machine's record was written
  after it.

Everything else is **unproven**: what was known stays as it was known, and nothing is added. This lasts
for twice the TTL of a lease (``agent.proxy_caution``): by then the leases of the backup have ended, and
machines that live have published again.

``rewritten`` is how it is noticed where the store's revision does not say it, because others have
written since: keys of the past that were seen to be otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from orbitcontrol.model.state import Endpoint
from orbitcontrol.model.stored import KeyValue, Reading
from orbitcontrol.planning.rotation import Place, Routes, Sight


class Doubt(Struct, frozen=True, kw_only=True):
    """``since`` is the store's revision at the first reading; ``lost`` what was known and missing in it."""

    since: int
    lost: frozenset[Place]


def rewritten(known: Mapping[str, KeyValue], *, at: int, listing: Reading) -> bool:
    """True when a listing of a range cannot follow on what was ``known`` of it at the revision ``at``."""
    return listing.revision < at or any(
        entry.mod_revision <= at and entry.mod_revision != _written(known.get(entry.key))
        for entries in listing.ranges
        for entry in entries
    )


def doubt_of(sight: Sight, *, known: Routes) -> Doubt:
    """What is in doubt after the first reading of a store that went back."""
    lost = {
        Place(service, address)
        for service, entries in sight.endpoints.items()
        for address in known.get(service, {}).keys() - entries.keys()
    }
    return Doubt(since=sight.revision, lost=frozenset(lost))


def unproven(sight: Sight, *, known: Routes, doubt: Doubt) -> frozenset[Place]:
    """The places of which a later reading says nothing that counts."""
    doubted: set[Place] = set()
    for service, entries in sight.endpoints.items():
        before = known.get(service, {})
        for address, endpoint in entries.items():
            place = Place(service, address)
            if endpoint is None or endpoint == before.get(address):
                continue
            if not _is_proven(place, endpoint, sight, doubt):
                doubted.add(place)
        for address in before.keys() - entries.keys():
            place = Place(service, address)
            if place in doubt.lost and not _has_spoken(before[address].machine, sight, doubt):
                doubted.add(place)
    return frozenset(doubted)


def everything(sight: Sight, *, known: Routes) -> frozenset[Place]:
    """All places, while a store that went back cannot be read."""
    return frozenset(
        Place(service, address)
        for service, entries in sight.endpoints.items()
        for address in entries.keys() | known.get(service, {}).keys()
    )


def _is_proven(place: Place, endpoint: Endpoint, sight: Sight, doubt: Doubt) -> bool:
    alive = sight.alive.get(endpoint.machine)
    if alive is None or alive.session != endpoint.session:
        return False
    return sight.written.get(place, 0) > doubt.since or _has_spoken(endpoint.machine, sight, doubt)


def _has_spoken(machine: str, sight: Sight, doubt: Doubt) -> bool:
    return sight.spoken.get(machine, 0) > doubt.since


def _written(entry: KeyValue | None) -> int:
    return 0 if entry is None else entry.mod_revision
