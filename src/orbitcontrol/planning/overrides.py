"""What a tag's binding changes about a service.

``EndpointPort`` if the binding states it; ``Checks`` as a whole; ``Attributes`` and
``Container.Config.Env`` merged by key; every other field of ``Container.Config`` and
``Container.HostConfig`` by key. A service bound by several tags of a machine takes the bindings in
the order of the machine's tags, each on top of the one before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import UNSET, UnsetType, structs

from orbitcontrol.model.service import Binding, Container, Service


def overridden(service: Service, bindings: Iterable[Binding]) -> Service:
    """The service with the bindings applied in order."""
    for binding in bindings:
        service = _apply(service, binding)
    return service


def _apply(service: Service, binding: Binding) -> Service:
    return structs.replace(
        service,
        endpoint_port=_or(binding.endpoint_port, service.endpoint_port),
        checks=_or(binding.checks, service.checks),
        attributes={**service.attributes, **binding.attributes},
        container=_merge_container(service.container, binding.container),
    )


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is UNSET else value


def _merge_container(container: Container | None, override: Container | UnsetType) -> Container | None:
    if isinstance(override, UnsetType):
        return container
    base = container or Container()
    config = {**base.config, **override.config}
    if "Env" in override.config:
        config["Env"] = merge_env(base.config.get("Env") or [], override.config["Env"] or [])
    return Container(config=config, host_config={**base.host_config, **override.host_config})


def merge_env(base: Iterable[str], override: Iterable[str]) -> list[str]:
    """``NAME=value`` lists merged by name: places of the base, then what is new."""
    merged = {entry.partition("=")[0]: entry for entry in base}
    merged |= {entry.partition("=")[0]: entry for entry in override}
    return list(merged.values())
