"""What a store lost, told by what the fleet runs.

Revisions live in the store alone, so after a loss the containers are the only witnesses: their labels
say which revision each runs, who had set it and with which serial, and the machines report that.
Where all witnesses of a service agree, what they say is written back. Where they do not (a new
revision was on its way when the store went), a person decides; the newest serial is proposed.

Everything written back gets a serial above all that were seen, because serials only grow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from msgspec import Struct

from orbitcontrol.model.state import Deployment, InstanceReport

_WITNESSES = frozenset({"running", "unhealthy", "held"})


class Witness(Struct, frozen=True, kw_only=True):
    """One container: where it runs, and what its labels say."""

    machine: str
    revision: str
    source: str
    serial: int


class Stored(Struct, frozen=True, kw_only=True):
    """What the store says of one service: for all machines, and for single ones by address."""

    service_wide: Deployment | None = None
    of_machines: dict[str, Deployment] = {}


class Restoration(Struct, frozen=True, kw_only=True):
    """One deployment to write back. ``machine`` "" is the whole service; ``revision`` None its image's tag.

    ``others`` are revisions that witnesses run as well: not empty, a person has to agree.
    """

    service: str
    machine: str
    revision: str | None
    serial: int
    others: tuple[str, ...] = ()


def witnesses(reports: Mapping[str, Iterable[InstanceReport]]) -> dict[str, tuple[Witness, ...]]:
    """By service, the containers that the machines (by address) report as there."""
    found: dict[str, list[Witness]] = defaultdict(list)
    for machine, instances in sorted(reports.items()):
        for report in instances:
            if report.state in _WITNESSES and report.revision_source:
                found[report.service].append(
                    Witness(
                        machine=machine,
                        revision=report.revision,
                        source=report.revision_source,
                        serial=report.serial,
                    )
                )
    return {service: tuple(ones) for service, ones in found.items()}


def plan_recovery(
    seen: Mapping[str, Iterable[Witness]], stored: Mapping[str, Stored]
) -> tuple[Restoration, ...]:
    """What to write back, by service; planning again after writing plans nothing."""
    restorations: list[Restoration] = []
    for service, ones in sorted(seen.items()):
        restorations += _of_service(service, tuple(ones), stored.get(service, Stored()))
    return tuple(restorations)


def _of_service(service: str, ones: tuple[Witness, ...], stored: Stored) -> list[Restoration]:
    serials = [one.serial for one in ones]
    serials += [one.serial for one in (stored.service_wide, *stored.of_machines.values()) if one]
    serial = max(serials) + 1
    known = stored.service_wide.serial if stored.service_wide else 0
    found: list[Restoration] = []
    for_all = [one for one in ones if one.source != "machine"]
    newest = max(for_all, key=lambda one: one.serial, default=None)
    if newest is not None and newest.serial > known:
        revision = newest.revision if newest.source == "service" else None
        others = sorted({one.revision for one in for_all} - {newest.revision})
        found.append(
            Restoration(service=service, machine="", revision=revision, serial=serial, others=tuple(others))
        )
    for one in {one.machine: one for one in ones if one.source == "machine"}.values():
        of_machine = stored.of_machines.get(one.machine)
        if one.serial > max(known, of_machine.serial if of_machine else 0):
            found.append(
                Restoration(service=service, machine=one.machine, revision=one.revision, serial=serial)
            )
    return found
