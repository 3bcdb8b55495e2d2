"""From the store's configuration to what one machine is to be.

Knowing too little must never look like "nothing is wanted": a binding whose service cannot be
understood, or whose service is missing, puts the service's name in ``held``, and everything that
runs under it stays as it is. A template that cannot be determined puts ``proxy_held``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from msgspec import structs

from orbitcontrol.codec.configuration import ParsedConfiguration
from orbitcontrol.codec.imageref import tag_of, with_revision
from orbitcontrol.model.configuration import (
    Configuration,
    Desired,
    EffectiveService,
    MachineIdentity,
    ProxyConfiguration,
    Tag,
)
from orbitcontrol.model.service import Container, Service
from orbitcontrol.model.state import ConfigMeta, Problem, Revisions
from orbitcontrol.planning.overrides import overridden

GLOBAL_PROPERTIES = "globalproperties"
"""The entry that has the zones. Whoever cannot read it keeps the zone that it had."""


def desired_of(
    machine: MachineIdentity, meta: ConfigMeta, parsed: ParsedConfiguration, revisions: Revisions
) -> Desired:
    """What the machine is to be. ``machine.zone`` is taken as given (see ``zone_of``)."""
    configuration = parsed.configuration
    tags = [configuration.tags[name] for name in machine.tags if name in configuration.tags]
    held = _held(machine, parsed, tags, revisions)
    services = {
        name: effective_service(configuration.services[name], tags, revisions)
        for name in _bound(tags)
        if name in configuration.services and name not in held
    }
    proxy, template_trouble = _proxy(machine, parsed, tags)
    problems = [
        *(Problem(subject=f"service {name}", reason=reason) for name, reason in held.items()),
        *(Problem(subject="template", reason=reason) for reason in template_trouble),
        *(
            Problem(subject="global properties", reason=reason)
            for entry, reason in parsed.broken.items()
            if entry == GLOBAL_PROPERTIES
        ),
    ]
    return Desired(
        epoch=meta.epoch,
        generation=meta.generation,
        machine=machine,
        services=services,
        known_services=configuration.services,
        held=frozenset(held),
        proxy=proxy,
        proxy_held=bool(template_trouble),
        authoritative_names=frozenset(name for tag in tags for name in tag.authoritative_names),
        problems=tuple(sorted(problems, key=lambda problem: (problem.subject, problem.reason))),
    )


def zone_of(configuration: Configuration, address: str) -> str:
    """The availability zone whose networks hold the address; "" for none, or a name for an address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    for zone, networks in configuration.global_properties.availability_zones.items():
        for network in networks:
            try:
                if parsed in ipaddress.ip_network(network, strict=False):
                    return zone
            except ValueError:
                continue  # the import refuses such a network; one from elsewhere matches nothing
    return ""


def effective_service(service: Service, tags: list[Tag], revisions: Revisions) -> EffectiveService:
    """The service as bound by the tags, its image at the revision that the deployments ask for."""
    merged = overridden(service, [tag.services[service.name] for tag in tags if service.name in tag.services])
    if merged.container is None or not merged.image:
        return EffectiveService(service=merged)
    own = revisions.of_machine.get(service.name)
    deployment = own or revisions.service_wide.get(service.name)
    if deployment is None or deployment.revision is None:
        serial = 0 if deployment is None else deployment.serial
        return EffectiveService(service=merged, revision=tag_of(merged.image), serial=serial)
    image = with_revision(merged.image, deployment.revision)
    container = Container(
        config={**merged.container.config, "Image": image}, host_config=merged.container.host_config
    )
    return EffectiveService(
        service=structs.replace(merged, container=container),
        revision=deployment.revision,
        revision_source="machine" if own else "service",
        serial=deployment.serial,
    )


def _bound(tags: list[Tag]) -> list[str]:
    return sorted({name for tag in tags for name in tag.services})


def _held(
    machine: MachineIdentity, parsed: ParsedConfiguration, tags: list[Tag], revisions: Revisions
) -> Mapping[str, str]:
    """Services of the machine that cannot be determined, and why."""
    held: dict[str, str] = {}
    for entry, reason in parsed.broken.items():
        match entry.split("/"):
            case ["services", name] if name in _bound(tags):
                held[name] = reason
            case ["tags", tag, "services", name] if tag in machine.tags:
                held[name] = reason
            case _:
                pass
    for name in _bound(tags):
        if name in revisions.broken:
            held[name] = revisions.broken[name]
        elif name not in parsed.configuration.services and name not in held:
            held[name] = f"config/services/{name} is missing in the store: run orbitctl import"
    return held


def _proxy(
    machine: MachineIdentity, parsed: ParsedConfiguration, tags: list[Tag]
) -> tuple[ProxyConfiguration | None, list[str]]:
    """The one template of the machine's tags, and what makes that undecidable."""
    trouble = [
        reason
        for entry, reason in parsed.broken.items()
        for tag in machine.tags
        if entry == f"tags/{tag}/haproxy_config"
        or entry.startswith((f"tags/{tag}/certs/", f"tags/{tag}/haproxy_files/"))
    ]
    carriers = [tag for tag in tags if tag.template is not None]
    if len(carriers) > 1:
        names = " and ".join(tag.name for tag in carriers)
        trouble.append(f"the tags {names} of this machine both carry haproxy.tpl: keep one of them")
    if trouble or not carriers:
        return None, trouble
    [tag] = carriers
    assert tag.template is not None  # noqa: S101 -- carriers are those that have one
    return (
        ProxyConfiguration(
            tag=tag.name, template=tag.template, certs=tag.certs, haproxy_files=tag.haproxy_files
        ),
        [],
    )
