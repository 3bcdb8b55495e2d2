"""Whom an import touches: the machines whose configuration changes, and how many containers.

An estimate for people before they say yes, made from the machines' own records. A machine is touched
when an entry of one of its tags changes, or a service that one of them binds. A container is touched
when it would be started, replaced or removed.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from orbitcontrol.codec.configuration import parse_entries
from orbitcontrol.codec.entries import parse_key
from orbitcontrol.model.configuration import Configuration
from orbitcontrol.model.service import Service
from orbitcontrol.planning.imports import ImportPlan
from orbitcontrol.planning.overrides import overridden


class MachineImpact(Struct, frozen=True, kw_only=True):
    """A machine that will act, and how many containers of each service it starts, replaces or removes."""

    address: str
    containers: dict[str, int] = {}


class Impact(Struct, frozen=True, kw_only=True):
    """The touched machines, sorted by address."""

    machines: tuple[MachineImpact, ...] = ()

    @property
    def containers(self) -> int:
        """Over all machines."""
        return sum(sum(machine.containers.values()) for machine in self.machines)


def impact_of(
    plan: ImportPlan,
    *,
    current: Mapping[str, bytes],
    wanted: Mapping[str, bytes],
    machines: Mapping[str, tuple[str, ...]],
) -> Impact:
    """``machines`` gives the tags of each machine by its address."""
    if plan.is_empty or not machines:
        return Impact()
    before, after = (parse_entries(entries).configuration for entries in (current, wanted))
    touched = [
        MachineImpact(address=address, containers=_containers(before, after, tags))
        for address, tags in sorted(machines.items())
        if any(_concerns(change.key, tags, before, after) for change in plan.changes)
    ]
    return Impact(machines=tuple(touched))


def _concerns(key: str, tags: tuple[str, ...], before: Configuration, after: Configuration) -> bool:
    entry = parse_key(key)
    if entry is None:
        return False
    if entry.kind == "service":
        return any(entry.name in _bound(configuration, tags) for configuration in (before, after))
    return entry.kind == "global" or entry.tag in tags


def _bound(configuration: Configuration, tags: tuple[str, ...]) -> set[str]:
    return {name for tag in tags if tag in configuration.tags for name in configuration.tags[tag].services}


def _containers(before: Configuration, after: Configuration, tags: tuple[str, ...]) -> dict[str, int]:
    old, new = _effective(before, tags), _effective(after, tags)
    counts = {name: _touched(old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys())}
    return {name: count for name, count in counts.items() if count}


def _effective(configuration: Configuration, tags: tuple[str, ...]) -> dict[str, Service]:
    """The services with a container that a machine with these tags runs, overrides applied."""
    found: dict[str, Service] = {}
    for name in _bound(configuration, tags) & configuration.services.keys():
        bindings = (configuration.tags[tag].services.get(name) for tag in tags if tag in configuration.tags)
        service = overridden(configuration.services[name], [each for each in bindings if each is not None])
        if service.container is not None:
            found[name] = service
    return found


def _touched(old: Service | None, new: Service | None) -> int:
    if old is None or new is None:
        return sum(service.instances for service in (old, new) if service is not None)
    published = (old.container_port, old.endpoint_port) != (new.container_port, new.endpoint_port)
    if old.container != new.container or (published and new.container_port is not None):
        return max(old.instances, new.instances)
    return abs(old.instances - new.instances)
