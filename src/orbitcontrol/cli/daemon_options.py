"""The settings of a daemon on the command line: for ``daemon``, and for ``doctor``, which looks at them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orbitcontrol.cli.context import CommandContext
from orbitcontrol.cli.framework import option
from orbitcontrol.cli.times import seconds
from orbitcontrol.errors import UsageError
from orbitcontrol.model.configuration import MachineIdentity
from orbitcontrol.model.service import NAME_PATTERN
from orbitcontrol.planning.ports import PortRange

if TYPE_CHECKING:
    from orbitcontrol.bootstrap import DaemonSettings

_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]*|::1")

docker_host_option = option(
    "--docker-host", metavar="URL", help="default: DOCKER_HOST, or unix:///var/run/docker.sock"
)
"""Which Docker engine is this machine's: also for commands that ask it something."""

_OPTIONS = (
    option(
        "--machine-address",
        metavar="ADDRESS",
        help="the address that others reach this machine by (required)",
    ),
    option("--machine-tags", metavar="TAG,…", default="", help="the machine's tags, in order"),
    option(
        "--availability-zone", metavar="ZONE", default="", help="default: by the tree's AvailabilityZones"
    ),
    option(
        "--listen",
        metavar="HOST:PORT",
        help="where /check answers (default: port 1500 on the machine's address)",
    ),
    option(
        "--port-range", metavar="A-B", default="20000-29999", help="ports that Orbit picks for containers"
    ),
    option("--lease-ttl", metavar="TIME", default="10s", help="how long the machine may be silent"),
    docker_host_option,
    option(
        "--haproxy-config-path",
        metavar="DIR",
        default="/etc/haproxy",
        help="where HAProxy's files are written",
    ),
    option(
        "--haproxy-config-name", metavar="NAME", default="haproxy.cfg", help="the configuration's file name"
    ),
    option("--haproxy-binary", metavar="FILE", default="haproxy", help="the program"),
    option("--haproxy-managed", is_flag=True, help="run HAProxy, too"),
    option("--haproxy-reload-command", metavar="COMMAND", help="how to reload an HAProxy that others run"),
    option("--haproxy-socket", metavar="GLOB", help="runtime sockets of an HAProxy that others run"),
    option(
        "--haproxy-reload-quiet",
        metavar="TIME",
        default="50ms",
        help="how long changes must pause before a reload",
    ),
    option(
        "--haproxy-reload-max-delay",
        metavar="TIME",
        default="500ms",
        help="when a reload comes although they do not pause",
    ),
    option("--haproxy-master-socket", metavar="FILE", help="master socket of an HAProxy that others run"),
)


def daemon_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options of ``orbitctl daemon``."""
    for decorate in reversed(_OPTIONS):
        command = decorate(command)
    return command


def daemon_settings(context: CommandContext, options: Mapping[str, Any]) -> DaemonSettings:
    """The settings that the options say. Raises ``UsageError`` naming the option that is wrong."""
    from orbitcontrol.bootstrap import DaemonSettings  # noqa: PLC0415 -- many libraries
    from orbitcontrol.haproxy.proxy import HAProxySettings  # noqa: PLC0415 -- many libraries

    address = options["machine_address"]
    if not address:
        raise UsageError("--machine-address is missing: the address that others reach this machine by")
    if not _ADDRESS.fullmatch(address):
        raise UsageError(f"--machine-address: {address!r} is not an address like 10.0.0.5")
    listen_host, listen_port = _host_port(options["listen"] or f"{_bracketed(address)}:1500")
    return DaemonSettings(
        machine=MachineIdentity(
            address=address, tags=_tags(options["machine_tags"]), zone=options["availability_zone"]
        ),
        listen_host=listen_host,
        listen_port=listen_port,
        port_range=_range(options["port_range"]),
        lease_ttl=seconds(options["lease_ttl"], flag="--lease-ttl", least=2, most=3600),
        reload_quiet=seconds(
            options["haproxy_reload_quiet"], flag="--haproxy-reload-quiet", least=0, most=60
        ),
        reload_longest=seconds(
            options["haproxy_reload_max_delay"], flag="--haproxy-reload-max-delay", least=0, most=600
        ),
        state_dir=context.state_dir,
        keys=context.keys,
        docker_host=options["docker_host"] or os.environ.get("DOCKER_HOST"),
        haproxy=HAProxySettings(
            config_dir=Path(options["haproxy_config_path"]),
            config_name=options["haproxy_config_name"],
            binary=options["haproxy_binary"],
            managed=bool(options["haproxy_managed"]),
            socket=options["haproxy_socket"] or "",
            reload_command=options["haproxy_reload_command"],
            master_socket=_path(options["haproxy_master_socket"]),
        ),
    )


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _tags(text: str) -> tuple[str, ...]:
    tags = tuple(dict.fromkeys(tag.strip() for tag in text.split(",") if tag.strip()))
    for tag in tags:
        if not re.match(NAME_PATTERN, tag):
            raise UsageError(f"--machine-tags: {tag!r} is not a tag's name")
    return tags


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"--listen: {text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _range(text: str) -> PortRange:
    first, _, last = text.partition("-")
    if not (first.isdigit() and last.isdigit() and 0 < int(first) <= int(last) < 65536):
        raise UsageError(f"--port-range: {text!r} is not a range of ports like 20000-29999")
    return PortRange(int(first), int(last))


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
