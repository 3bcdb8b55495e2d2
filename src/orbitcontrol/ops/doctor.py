"""``doctor``: is everything here that the daemon needs, and what to do about what is not.

Each examination looks at one thing and always comes to a finding; none changes anything but a file
that it makes and removes again where it has to know whether one could be made.
"""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import os
import shutil
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

from msgspec import Struct

from orbitcontrol.codec.keys import Keys
from orbitcontrol.docker.facts import engine_facts
from orbitcontrol.errors import OrbitError
from orbitcontrol.haproxy.check import run_program
from orbitcontrol.haproxy.proxy import HAProxySettings
from orbitcontrol.planning.ports import PortRange
from orbitcontrol.planning.proxy import advice
from orbitcontrol.ports import Store

_ADJTIMEX_ERROR = 5
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


class Diagnosis(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One thing that was looked at: what was found, and what to do about it ("" for nothing)."""

    subject: str
    state: Literal["ok", "warning", "failed"]
    finding: str
    advice: str = ""


class Patient(Struct, frozen=True, kw_only=True):
    """The settings of the daemon that is to run here."""

    address: str
    listen: tuple[str, int]
    state_dir: Path
    port_range: PortRange
    docker_host: str | None
    haproxy: HAProxySettings


async def examine(patient: Patient, open_store: Callable[[], Store], keys: Keys) -> tuple[Diagnosis, ...]:
    """Looks at everything, all at once."""
    examinations: list[Awaitable[Diagnosis]] = [
        _store(open_store, keys),
        _docker(patient.docker_host),
        _haproxy(patient.haproxy),
        asyncio.to_thread(_haproxy_directory, patient.haproxy),
        asyncio.to_thread(_haproxy_reload, patient.haproxy),
        asyncio.to_thread(_address, patient.address),
        asyncio.to_thread(_listen, *patient.listen),
        asyncio.to_thread(_port_range, patient.port_range),
        asyncio.to_thread(_state_directory, patient.state_dir),
        asyncio.to_thread(_clock),
    ]
    found = await asyncio.gather(*examinations)
    return (*found, *await asyncio.to_thread(_haproxy_configuration, patient.haproxy))


async def _store(open_store: Callable[[], Store], keys: Keys) -> Diagnosis:
    try:
        store = open_store()
        try:
            begun = time.monotonic()
            meta = await store.get(keys.meta)
            took = (time.monotonic() - begun) * 1000
        finally:
            await store.close()
    except OrbitError as error:
        return _failed("store", str(error), "start the store, or say where it is with --store")
    answered = f"{store.address} answers in {took:.0f} ms"
    if meta is None:
        return _warning("store", f"{answered}, without a configuration", "run orbitctl import DIR")
    return _ok("store", answered)


async def _docker(host: str | None) -> Diagnosis:
    try:
        facts = await engine_facts(host)
    except OrbitError as error:
        return _warning(
            "docker",
            str(error),
            "start the engine or say where it is with --docker-host, if containers are to run",
        )
    if not facts.live_restore:
        return _warning(
            "docker",
            f"version {facts.version}, without live-restore: a restart of the engine ends all containers",
            'put {"live-restore": true} into /etc/docker/daemon.json and reload the engine',
        )
    return _ok("docker", f"version {facts.version}, with live-restore")


async def _haproxy(settings: HAProxySettings) -> Diagnosis:
    try:
        _, output = await run_program([settings.binary, "-v"], deadline=5)
    except OrbitError as error:
        return _warning("haproxy", str(error), "install HAProxy, if this machine is to be a load balancer")
    return _ok("haproxy", output.partition("\n")[0].strip())


def _haproxy_directory(settings: HAProxySettings) -> Diagnosis:
    directory = settings.config_dir.absolute()
    subject = "haproxy directory"
    if _can_be_written(directory):
        return _ok(subject, f"{directory} can be written")
    advice = "run the daemon as a user who may, or as root, or choose another --haproxy-config-path"
    return _failed(subject, f"{directory} cannot be written", advice)


def _haproxy_reload(settings: HAProxySettings) -> Diagnosis:
    """Every way that was given is looked at: the command reloads, the master socket says how it went."""
    subject = "haproxy reload"
    if settings.managed:
        return _ok(subject, "the daemon runs HAProxy itself")
    ways = []
    if settings.reload_command is not None:
        ways.append(f"with {settings.reload_command}")
        program = (settings.reload_command.split() or [""])[0]
        if not shutil.which(program):
            return _failed(subject, f"{program!r}: no such program", "mend --haproxy-reload-command")
    if settings.master_socket is not None:
        ways.append(f"through {settings.master_socket}")
        if not settings.master_socket.is_socket():
            return _failed(
                subject,
                f"{settings.master_socket} is no socket",
                "start HAProxy with -W and -S, or mend --haproxy-master-socket",
            )
    if not ways:
        return _warning(
            subject,
            "nobody said how HAProxy is reloaded",
            "on a load balancer give --haproxy-managed, --haproxy-master-socket or --haproxy-reload-command",
        )
    if settings.master_socket is None:
        return _warning(
            subject,
            f"{ways[0]}, which cannot say whether the new configuration came up",
            "give --haproxy-master-socket as well: Debian's unit has /run/haproxy-master.sock",
        )
    return _ok(subject, ", looked at ".join(ways))


def _haproxy_configuration(settings: HAProxySettings) -> list[Diagnosis]:
    """What the configuration on this machine's disk lacks for reloads and drains without harm."""
    subject = "haproxy configuration"
    path = settings.config_dir.absolute() / settings.config_name
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return [_ok(subject, f"{path} is not there yet")]
    except OSError as error:
        return [_warning(subject, f"{path}: {error.strerror}", "look at it as a user who may, or as root")]
    lacks = [
        _warning(
            subject,
            f"{path}: {lack}",
            "add it to haproxy.tpl in the tree and import that; docs/templates.md shows where",
        )
        for lack in advice(text)
    ]
    return lacks or [_ok(subject, f"{path} has what reloads and drains need")]


def _address(address: str) -> Diagnosis:
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    except ValueError:
        return _warning("address", f"{address} is a name", "give an IP address: it is what others connect to")
    with socket.socket(family) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            return _failed("address", f"{address}: {error.strerror}", "give an address that this machine has")
    return _ok("address", f"{address} is one of this machine's")


def _listen(host: str, port: int) -> Diagnosis:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            return _warning(
                "listen",
                f"{host}:{port}: {error.strerror}",
                "fine if it is the daemon that runs already; otherwise choose another --listen",
            )
    return _ok("listen", f"{host}:{port} is free")


def _port_range(within: PortRange) -> Diagnosis:
    try:
        first, last = (int(part) for part in _EPHEMERAL.read_text().split())
    except (OSError, ValueError):
        return _warning("ports", "the kernel's ephemeral range is not known", "keep --port-range out of it")
    if within.first <= last and first <= within.last:
        return _warning(
            "ports",
            f"{within} overlaps the kernel's ephemeral ports {first}-{last}",
            "choose another --port-range, or another net.ipv4.ip_local_port_range",
        )
    return _ok("ports", f"{within} is outside the kernel's ephemeral ports {first}-{last}")


def _state_directory(path: Path) -> Diagnosis:
    if not _can_be_written(path):
        return _failed("state", f"{path} cannot be written", "choose another --state-dir, or run as root")
    free = shutil.disk_usage(_nearest(path)).free >> 20
    if free < 64:
        return _warning(
            "state", f"{path} has {free} MiB left", "make room: the daemon remembers things there"
        )
    return _ok("state", f"{path} can be written, {free} MiB are free")


def _can_be_written(directory: Path) -> bool:
    """Whether files could be made there, in a directory that exists or could be made itself."""
    nearest = _nearest(directory)
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def _nearest(path: Path) -> Path:
    """The path, or what exists of the way to it."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())


def _clock() -> Diagnosis:
    """Asks the kernel whether somebody keeps its clock right (adjtimex(2) answers TIME_ERROR if not)."""
    buffer = ctypes.create_string_buffer(512)  # a zeroed struct timex, which only reads
    if ctypes.CDLL(None).adjtimex(buffer) == _ADJTIMEX_ERROR:
        return _warning(
            "clock",
            "nobody keeps the clock synchronised",
            "run an NTP client: times in logs and history are compared",
        )
    return _ok("clock", "synchronised")


def _ok(subject: str, finding: str) -> Diagnosis:
    return Diagnosis(subject=subject, state="ok", finding=finding)


def _warning(subject: str, finding: str, advice: str) -> Diagnosis:
    return Diagnosis(subject=subject, state="warning", finding=finding, advice=advice)


def _failed(subject: str, finding: str, advice: str) -> Diagnosis:
    return Diagnosis(subject=subject, state="failed", finding=finding, advice=advice)
