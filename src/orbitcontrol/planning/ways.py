"""The way of an endpoint's last change: from its check through the store to each load balancer.

Each machine tells its part (``agent.trace``); here the parts of one change are put together. What
belongs together is told by the ``Id`` of the publication, never by time: the clocks of machines differ.
So the steps are in the order in which one causes the next, and only those of one machine, and the load
balancers among each other, are in the order of their times.

What was not told is not made up. A load balancer that routes to the service and has no word of the
change *waits*: it has not applied it yet, or its template leaves the endpoint out, or the change is older
than what it remembers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime

from msgspec import Struct, structs

from orbitcontrol.model.state import Endpoint, EndpointChange, MachineRecord
from orbitcontrol.planning.rotation import Place

_WRITTEN = frozenset({"published", "updated", "withdrawn"})
_CAUSES = {"published": frozenset({"proven"}), "withdrawn": frozenset({"failed", "ended"})}
_ANY_CAUSE = frozenset({"proven", "failed", "ended"})
_COME, _GONE = frozenset({"routed"}), frozenset({"draining", "out"})


class WayStep(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One step on one machine, at a time of its own clock; ``milliseconds`` count from the first step.

    ``step`` is that of an ``EndpointChange``, or ``missing`` (its key is not in the store, and nobody has
    told why) or ``waiting`` (a load balancer has not told that it has applied the change): these have no
    time.
    """

    machine: str
    step: str
    at: str = ""
    milliseconds: int = 0
    revision: int = 0
    reason: str = ""


class Way(Struct, frozen=True, kw_only=True, rename="pascal"):
    """The last change of an endpoint. ``state`` is the one that the store has, "" without a key.

    ``id`` is that of the publication, or of the one that ended.
    """

    service: str
    endpoint: str
    id: str
    state: str
    steps: tuple[WayStep, ...]


class Stored(Struct, frozen=True):
    """An endpoint as the store has it, with the revision that wrote it."""

    endpoint: Endpoint
    revision: int


def places_of(records: Iterable[MachineRecord]) -> set[Place]:
    """The endpoints that any machine has a word of."""
    return {Place(change.service, change.endpoint) for record in records for change in record.changes}


def way_of(
    place: Place,
    *,
    stored: Stored | None,
    records: Mapping[str, MachineRecord],
    alive: Collection[str],
) -> Way:
    """The last change of the endpoint at ``place``, as far as ``records`` tell of it."""
    told = {address: _of(place, record) for address, record in records.items()}
    machine, written = _last_written(told, stored)
    steps = [*_on_its_machine(machine, told.get(machine, []), written)]
    if stored is not None and written is None:
        reason = "it is in the store; its machine has no word of it, or not yet"
        steps.append(WayStep(machine=machine, step="published", revision=stored.revision, reason=reason))
    elif stored is None and written is not None and written.step != "withdrawn":
        steps.append(WayStep(machine=machine, step="missing", reason=_why_missing(machine, alive)))
    identity = stored.endpoint.id if stored is not None else written.id if written is not None else ""
    if identity:
        steps += _on_load_balancers(place, identity, written, told=told, records=records, alive=alive)
    return Way(
        service=place.service,
        endpoint=place.address,
        id=identity,
        state=stored.endpoint.state if stored is not None else "",
        steps=tuple(_counted(steps)),
    )


def _of(place: Place, record: MachineRecord) -> list[EndpointChange]:
    return [one for one in record.changes if (one.service, one.endpoint) == (place.service, place.address)]


def _last_written(
    told: Mapping[str, list[EndpointChange]], stored: Stored | None
) -> tuple[str, EndpointChange | None]:
    """The endpoint's machine, and what it wrote last, if that is what ``stored`` is.

    All revisions are of the one store.
    """
    written = [
        (change.revision, address, change)
        for address, changes in told.items()
        for change in changes
        if change.step in _WRITTEN
    ]
    _, machine, last = max(written, key=lambda item: item[:2], default=(0, "", None))
    if stored is not None and (last is None or last.id != stored.endpoint.id):
        return stored.endpoint.machine, None
    causes = (address for address, changes in told.items() if any(one.step in _ANY_CAUSE for one in changes))
    return machine or next(causes, ""), last


def _on_its_machine(
    machine: str, changes: list[EndpointChange], written: EndpointChange | None
) -> Iterator[WayStep]:
    """What caused the last write, the write, and what its checks have said since."""
    if written is not None:
        causes = _CAUSES.get(written.step, frozenset())
        for change in changes:
            if change.step in causes and change.id == written.id:
                yield _step(machine, change)
        yield _step(machine, written)
    since = [
        change
        for change in changes
        if change.step in _ANY_CAUSE and not change.id and (written is None or change.at > written.at)
    ]
    for change in sorted(since, key=lambda one: one.at)[-1:]:
        yield _step(machine, change)


def _on_load_balancers(
    place: Place,
    identity: str,
    written: EndpointChange | None,
    *,
    told: Mapping[str, list[EndpointChange]],
    records: Mapping[str, MachineRecord],
    alive: Collection[str],
) -> list[WayStep]:
    """What each load balancer has applied; those that have told nothing of it come last.

    An update has the ``Id`` of its publication. Which of the two a load balancer has applied only the
    clocks can tell.
    """
    leaves = written is not None and written.step == "withdrawn"
    since = written.at if written is not None and written.step == "updated" else ""
    applied, waiting = [], []
    for address, record in sorted(records.items()):
        changes = [one for one in told[address] if one.id == identity]
        steps = [
            _step(address, one)
            for one in changes
            if one.step in (_GONE if leaves else _COME) and one.at > since
        ]
        if steps:
            reasons = (steps[-1].reason, *_troubles(place, record))
            applied += [*steps[:-1], structs.replace(steps[-1], reason="; ".join(filter(None, reasons)))]
        elif place.service in record.balances:
            knew_it = any(one.step in _COME for one in changes)
            reason = _why_waiting(leaves=leaves, knew_it=knew_it, alive=address in alive)
            waiting.append(WayStep(machine=address, step="waiting", reason=reason))
    return [*sorted(applied, key=lambda step: (step.at, step.machine)), *waiting]


def _why_waiting(*, leaves: bool, knew_it: bool, alive: bool) -> str:
    if not alive:
        return "its daemon has no lease: it applies nothing"
    if leaves and not knew_it:
        return "it has no word of it: it never routed to it, or this was too long ago"
    if leaves:
        return "not yet applied"
    return "not yet applied, or left out by its template, or too long ago for its trace"


def _why_missing(machine: str, alive: Collection[str]) -> str:
    if machine in alive:
        return "its key is not in the store; its machine has not told why yet"
    return "its key went with its machine's lease; load balancers keep it while they reach it"


def _troubles(place: Place, record: MachineRecord) -> list[str]:
    subject = f"endpoint {place.service} {place.address}"
    return [problem.reason for problem in record.problems if problem.subject == subject]


def _step(machine: str, change: EndpointChange) -> WayStep:
    return WayStep(
        machine=machine, step=change.step, at=change.at, revision=change.revision, reason=change.reason
    )


def _counted(steps: list[WayStep]) -> Iterator[WayStep]:
    """The steps with the milliseconds since the first that has a time."""
    first = next((step.at for step in steps if step.at), "")
    for step in steps:
        passed = round((_moment(step.at) - _moment(first)).total_seconds() * 1000) if step.at else 0
        yield structs.replace(step, milliseconds=passed)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
