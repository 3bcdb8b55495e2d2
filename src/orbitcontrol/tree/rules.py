"""The rules of a configuration that no single field can break.

They hold of what a tag's machines would run, so each is applied to the service as it stands and once
more to what every binding makes of it; a fault is named in the file where it can be mended. Pure
functions of the configuration; the words of the rules are in ``docs/configuration.md``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator
from urllib.parse import urlsplit

from orbitcontrol.codec.entries import EntryKey
from orbitcontrol.codec.imageref import name_of
from orbitcontrol.codec.wording import element, nearest
from orbitcontrol.model.configuration import Configuration, Tag
from orbitcontrol.model.findings import Finding
from orbitcontrol.model.service import (
    Binding,
    Check,
    Container,
    DockerCheck,
    ExecCheck,
    GrpcCheck,
    HttpCheck,
    Service,
    TcpCheck,
)
from orbitcontrol.planning.overrides import overridden

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})")
_STATUS = re.compile(r"[1-5][0-9]{0,2}")
_PLACEHOLDERS = {"${ENDPOINT_HOST}": "127.0.0.1", "${ENDPOINT_PORT}": "1"}


def check_rules(configuration: Configuration, *, present: Collection[str]) -> Iterator[Finding]:
    """Every breach of the rules, in no particular order.

    ``present`` are the keys of all entries that have a file: what refers to one that could not be
    read is no fault of its own.
    """
    yield from _zones(configuration)
    for service in configuration.services.values():
        yield from _service(service, configuration)
    for tag in configuration.tags.values():
        yield from _bindings(tag, configuration, present)
        yield from _ports_of(tag, configuration)
        yield from _authoritative_names(tag)
        yield from _files_of(tag, present)


def _zones(configuration: Configuration) -> Iterator[Finding]:
    file = EntryKey(kind="global").path
    for zone, networks in configuration.global_properties.availability_zones.items():
        for index, network in enumerate(networks):
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                yield Finding(
                    file=file,
                    where=element(f"AvailabilityZones.{zone}", index),
                    message=f'"{network}" is not a network; write it like "10.0.0.0/24"',
                )


def _service(service: Service, configuration: Configuration) -> Iterator[Finding]:
    """A service's own faults. What its bindings may mend is a fault only if one of them does not."""
    file = EntryKey(kind="service", name=service.name).path
    bound = [
        overridden(service, (tag.services[service.name],))
        for tag in configuration.tags.values()
        if service.name in tag.services
    ] or [service]
    yield from _checks(service.checks, service.container, file)
    yield from _restart_policy(service.container, file)
    yield from _shape(service, file)
    if service.container is not None and not all(each.image for each in bound):
        yield Finding(file=file, where="Container.Config.Image", message="is required: name the image to run")
    if not service.checks and not all(each.checks for each in bound):
        state = "up while its container runs" if service.container else "always up"
        yield _warning(file, "Checks", f"there are none, so this service counts as {state}")


def _shape(service: Service, file: str) -> Iterator[Finding]:
    """Name, instances, ports, order and networking must fit together."""
    host_network = _network_mode(service.container) == "host"
    if service.container is not None and service.instances == 1 and len(service.name) == 1:
        yield Finding(
            file=file,
            where="Name",
            message="Docker refuses containers whose name is a single character; make it longer",
        )
    if service.instances > 1 and service.endpoint_port:
        yield Finding(
            file=file,
            where="Instances",
            message=f"{service.instances} instances cannot share EndpointPort {service.endpoint_port}; "
            "set ContainerPort and leave EndpointPort out, then Orbit picks a port for each",
        )
    if service.update.order == "start-first" and (service.endpoint_port or host_network):
        why = f"EndpointPort {service.endpoint_port}" if service.endpoint_port else "host networking"
        yield Finding(
            file=file,
            where="Update.Order",
            message=f"start-first needs a port that Orbit picks, not {why}; use stop-first, or set "
            "ContainerPort alone",
        )
    if service.container_port is None:
        return
    if service.container is None:
        yield Finding(
            file=file,
            where="ContainerPort",
            message="there is no Container to publish a port of; set EndpointPort instead",
        )
    elif host_network:
        yield Finding(
            file=file,
            where="ContainerPort",
            message="host networking publishes no ports; set EndpointPort to the port it listens on",
        )


def _restart_policy(container: Container | None, file: str) -> Iterator[Finding]:
    policy = container.host_config.get("RestartPolicy") if container else None
    if not isinstance(policy, dict):
        return
    names = [value for key, value in policy.items() if key.lower() == "name"]
    if names and names[0] not in ("", "no"):
        yield _warning(
            file,
            "Container.HostConfig.RestartPolicy",
            f'"{names[0]}" is ignored: Orbit alone restarts containers, so they are created with "no"',
        )


def _checks(checks: tuple[Check, ...], container: Container | None, file: str) -> Iterator[Finding]:
    for index, check in enumerate(checks):
        place = element("Checks", index)
        for field, message in _check_faults(check, has_container=container is not None):
            yield Finding(file=file, where=f"{place}.{field}", message=message)


def _check_faults(check: Check, *, has_container: bool) -> Iterator[tuple[str, str]]:
    """Field and message of what is wrong with a check."""
    for field, duration in (
        ("ConnectTimeout", check.connect_timeout),
        ("ResponseTimeout", check.response_timeout),
        ("Interval", check.interval),
    ):
        if duration <= 0:
            yield field, "must be longer than 0"
    match check:
        case HttpCheck():
            yield from _url_faults(check.url)
            if not _STATUS.fullmatch(str(check.expect_http_status)):
                yield "ExpectHttpStatus", 'expected the beginning of a status, like "2" or "204"'
        case TcpCheck() | GrpcCheck():
            yield from _host_port_faults(check.host_port)
        case DockerCheck() if not has_container:
            yield "Type", "a docker check needs a Container"
        case ExecCheck():
            if check.in_container and not has_container:
                yield "InContainer", "there is no Container to run the command in"
            if not check.command:
                yield "Command", "is empty; name the command to run"
        case _:
            pass


def _filled(text: str) -> str:
    for placeholder, value in _PLACEHOLDERS.items():
        text = text.replace(placeholder, value)
    return text


def _url_faults(url: str) -> Iterator[tuple[str, str]]:
    try:
        parts = urlsplit(_filled(url))
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        yield "Url", 'expected a URL like "http://${ENDPOINT_HOST}:${ENDPOINT_PORT}/check"'


def _host_port_faults(host_port: str) -> Iterator[tuple[str, str]]:
    found = _HOST_PORT.fullmatch(_filled(host_port))
    if found is None or not 1 <= int(found.group(2)) <= 65535:
        yield "HostPort", 'expected host and port like "${ENDPOINT_HOST}:${ENDPOINT_PORT}"'


def _bindings(tag: Tag, configuration: Configuration, present: Collection[str]) -> Iterator[Finding]:
    for name, binding in tag.services.items():
        file = EntryKey(kind="binding", tag=tag.name, name=name).path
        service = configuration.services.get(name)
        if service is not None:
            yield from _override(service, binding, file)
        elif EntryKey(kind="service", name=name).key not in present:
            near = nearest(name, configuration.services)
            hint = f"; did you mean {near}?" if near else f"; write services/{name}.json, or remove this file"
            yield Finding(file=file, message=f'there is no service "{name}"{hint}')


def _override(service: Service, binding: Binding, file: str) -> Iterator[Finding]:
    """Faults that the binding brings in, or makes worse; those of the service itself are told there."""
    merged = overridden(service, (binding,))
    known = {(finding.where, finding.message) for finding in _shape(service, "")}
    if isinstance(binding.checks, tuple):
        yield from _checks(binding.checks, merged.container, file)
        if not binding.checks and service.checks:
            yield _warning(file, "Checks", "there are none in this tag, so nothing is checked there")
    if isinstance(binding.container, Container):
        yield from _restart_policy(binding.container, file)
        if service.container is None and not merged.image:
            yield Finding(
                file=file, where="Container.Config.Image", message="is required: name the image to run"
            )
    yield from (finding for finding in _shape(merged, file) if (finding.where, finding.message) not in known)


def _ports_of(tag: Tag, configuration: Configuration) -> Iterator[Finding]:
    """Two services of one tag run on the same machines, so their fixed ports must differ."""
    owner: dict[int, str] = {}
    for name in sorted(tag.services):
        service = configuration.services.get(name)
        if service is None:
            continue
        port = overridden(service, (tag.services[name],)).endpoint_port
        other = owner.setdefault(port, name) if port else name
        if other != name:
            yield Finding(
                file=EntryKey(kind="binding", tag=tag.name, name=name).path,
                where="EndpointPort",
                message=f'port {port} is also that of "{other}" in this tag; give one of them another',
            )


def _authoritative_names(tag: Tag) -> Iterator[Finding]:
    file = EntryKey(kind="authoritative_names", tag=tag.name).path
    for index, name in enumerate(tag.authoritative_names):
        place = element("", index)
        if not name or name != name.strip():
            yield Finding(file=file, where=place, message="expected the name of an image")
        elif name_of(name) != name:
            message = f'names an image without tag; write "{name_of(name)}"'
            yield Finding(file=file, where=place, message=message)


def _files_of(tag: Tag, present: Collection[str]) -> Iterator[Finding]:
    """Certificates and files serve the template of their own tag (``validate`` tells of unused ones)."""
    template = EntryKey(kind="template", tag=tag.name)
    if template.key in present:
        return
    for folder, names in (("certs", tag.certs), ("haproxy_files", tag.haproxy_files)):
        if names:
            yield Finding(
                file=f"{template.path.rpartition('/')[0]}/{folder}",
                message="these files are for a template, but this tag has no haproxy.tpl; "
                "add one, or remove them",
            )


def _network_mode(container: Container | None) -> str:
    mode = container.host_config.get("NetworkMode") if container else None
    return mode if isinstance(mode, str) else ""


def _warning(file: str, where: str, message: str) -> Finding:
    return Finding(file=file, where=where, message=message, severity="warning")
