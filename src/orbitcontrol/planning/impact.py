"""Whom an import touches: the machines whose configuration changes, and how many containers.

An estimate for people before they say yes, made from the machines' own records. A machine is touched
when an entry of one of its tags changes, or a service that one of them binds, or whose name stands in the
template of one of them: it may route to it. A container is touched when it would be started, replaced or
removed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from orbitcontrol.codec.configuration import parse_entries
from orbitcontrol.codec.entries import parse_key
from orbitcontrol.model.configuration import Configuration
from orbitcontrol.model.service import Service
from orbitcontrol.planning.imports import ImportPlan
from orbitcontrol.planning.overrides import overridden

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What can be a service's name in a template's text."""


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
    touched = []
    for address, tags in sorted(machines.items()):
        services = {
            name
            for configuration in (before, after)
            for name in _bound(configuration, tags) | _mentioned(configuration, tags)
        }
        if any(_concerns(change.key, tags, services) for change in plan.changes):
            touched.append(MachineImpact(address=address, containers=_containers(before, after, tags)))
    return Impact(machines=tuple(touched))


def _concerns(key: str, tags: tuple[str, ...], services: set[str]) -> bool:
    entry = parse_key(key)
    if entry is None:
        return False
    if entry.kind == "service":
        return entry.name in services
    return entry.kind == "global" or entry.tag in tags


def _mentioned(configuration: Configuration, tags: tuple[str, ...]) -> set[str]:
    """The words in the templates of the tags, the names of services among them."""
    carried = [configuration.tags[tag].template or "" for tag in tags if tag in configuration.tags]
    return {word for template in carried for word in _WORD.findall(template)}


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
