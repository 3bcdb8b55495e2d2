"""``why``: the way of an endpoint's last change, from one reading of the store."""

from __future__ import annotations

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.codec.wording import nearest
from orbitcontrol.errors import OrbitError, UndecodableValue, UsageError
from orbitcontrol.model.state import Endpoint, MachineRecord
from orbitcontrol.model.stored import KeyValue
from orbitcontrol.planning.rotation import Place
from orbitcontrol.planning.ways import Stored, Way, places_of, way_of
from orbitcontrol.ports import Store


async def why(store: Store, keys: Keys, text: str) -> Way:
    """The way of the endpoint that ``text`` names, as ``host:port`` or as ``service-host:port``.

    Raises ``UsageError`` when several services have it, ``OrbitError`` when nobody knows it.
    """
    services, machines, alive = (await store.read(keys.services, keys.machines, keys.all_alive)).ranges
    stored = _endpoints(keys, services)
    records = _records(keys, machines)
    place = _named(text, stored.keys() | places_of(records.values()))
    return way_of(
        place,
        stored=stored.get(place),
        records=records,
        alive={keys.below(item.key)[-1] for item in alive},
    )


def _named(text: str, places: set[Place]) -> Place:
    names = {f"{place.service}-{place.address}": place for place in places}
    found = {name: place for name, place in names.items() if text in (name, place.address)}
    if len(found) > 1:
        raise UsageError(f"{text}: several services have this endpoint: {', '.join(sorted(found))}")
    if not found:
        near = nearest(text, [*names, *(place.address for place in places)])
        hint = f"did you mean {near}?" if near else "`orbitctl endpoints` lists those that are published"
        raise OrbitError(f"{text}: no such endpoint is published, and no machine has a word of it; {hint}")
    [place] = found.values()
    return place


def _endpoints(keys: Keys, items: tuple[KeyValue, ...]) -> dict[Place, Stored]:
    """The endpoints that can be read."""
    found: dict[Place, Stored] = {}
    for item in items:
        match keys.below(item.key):
            case ("services", service, "endpoints", address):
                try:
                    endpoint = decode(item.value, Endpoint, key=item.key)
                except UndecodableValue:
                    continue
                found[Place(service, address)] = Stored(endpoint, item.mod_revision)
            case _:
                pass
    return found


def _records(keys: Keys, items: tuple[KeyValue, ...]) -> dict[str, MachineRecord]:
    """The machines' records that can be read, by address."""
    found: dict[str, MachineRecord] = {}
    for item in items:
        try:
            found[keys.below(item.key)[-1]] = decode(item.value, MachineRecord, key=item.key)
        except UndecodableValue:
            continue
    return found
