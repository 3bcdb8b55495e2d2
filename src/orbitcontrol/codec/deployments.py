"""Keys below ``deployments/`` to the revisions that concern one machine."""

from __future__ import annotations

from collections.abc import Iterable

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.errors import UndecodableValue
from orbitcontrol.model.state import Deployment, Revisions
from orbitcontrol.model.stored import KeyValue


def parse_deployments(keys: Keys, items: Iterable[KeyValue], *, machine: str) -> Revisions:
    """The service-wide revisions and those of ``machine``; others' are passed over."""
    service_wide: dict[str, Deployment] = {}
    of_machine: dict[str, Deployment] = {}
    broken: dict[str, str] = {}
    for item in items:
        match keys.below(item.key):
            case ("deployments", service, "revision"):
                target = service_wide
            case ("deployments", service, "machines", address) if address == machine:
                target = of_machine
            case _:
                continue
        try:
            target[service] = decode(item.value, Deployment, key=item.key)
        except UndecodableValue as error:
            broken[service] = str(error)
    return Revisions(service_wide=service_wide, of_machine=of_machine, broken=broken)
