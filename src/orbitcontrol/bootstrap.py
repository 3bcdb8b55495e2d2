"""The only place that knows every layer: settings to adapters to loops."""

from __future__ import annotations

import asyncio
import resource
import secrets
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from orbitcontrol import __version__
from orbitcontrol.agent.board import Board
from orbitcontrol.agent.configuration import ConfigurationLoop
from orbitcontrol.agent.containers import ContainersLoop
from orbitcontrol.agent.endpoints import EndpointsLoop
from orbitcontrol.agent.follower import EndpointFollower
from orbitcontrol.agent.health import HealthLoop
from orbitcontrol.agent.membership import Membership
from orbitcontrol.agent.proxy import ProxyLoop
from orbitcontrol.agent.proxy_store import BalancerStore
from orbitcontrol.agent.record import RecordLoop
from orbitcontrol.agent.rollouts import RolloutsLoop
from orbitcontrol.codec.keys import Keys
from orbitcontrol.docker.checks import DockerChecks
from orbitcontrol.docker.runtime import DockerRuntime
from orbitcontrol.errors import OrbitError
from orbitcontrol.haproxy.proxy import HAProxy, HAProxySettings
from orbitcontrol.log import Log
from orbitcontrol.model.configuration import MachineIdentity
from orbitcontrol.model.service import (
    DockerCheck,
    DummyCheck,
    ExecCheck,
    GrpcCheck,
    HttpCheck,
    TcpCheck,
)
from orbitcontrol.names import Names
from orbitcontrol.planning.ports import PortRange
from orbitcontrol.ports import Prober, Store
from orbitcontrol.probes.connect import TcpConnector
from orbitcontrol.probes.docker import DockerProber
from orbitcontrol.probes.dummy import DummyProber
from orbitcontrol.probes.exec import ExecProber
from orbitcontrol.probes.grpc import GrpcProber
from orbitcontrol.probes.http import HttpProber
from orbitcontrol.probes.tcp import TcpProber
from orbitcontrol.statedir import StateDirectory, machine_id
from orbitcontrol.web.daemon import serve

_log = Log(__name__)

_DESCRIPTORS = 65_536


class Loop(Protocol):
    """What runs for as long as the daemon does."""

    async def run(self) -> None: ...


class DaemonSettings(Struct, frozen=True, kw_only=True):
    """Everything that a daemon is told. ``lease_ttl`` and the times of reloads are in seconds."""

    machine: MachineIdentity
    keys: Keys
    state_dir: Path
    listen_host: str
    listen_port: int
    port_range: PortRange
    lease_ttl: float
    docker_host: str | None
    haproxy: HAProxySettings
    reload_quiet: float
    reload_longest: float

    @property
    def listen(self) -> str:
        """Where ``/check`` answers: ``host:port``, an IPv6 host in brackets."""
        host = f"[{self.listen_host}]" if ":" in self.listen_host else self.listen_host
        return f"{host}:{self.listen_port}"


def run_daemon(settings: DaemonSettings, open_store: Callable[[], Store]) -> None:
    """Runs the daemon until SIGTERM or SIGINT; containers, HAProxy and the lease are left as they are.

    Raises ``OrbitError`` when the daemon cannot run here: the state directory or the address is
    another's, or the address to listen on is taken.
    """
    _allow_open_files()
    state = StateDirectory(settings.state_dir)
    with state.locked():
        asyncio.run(_until_told_to_end(settings, state, open_store))


async def _until_told_to_end(
    settings: DaemonSettings, state: StateDirectory, open_store: Callable[[], Store]
) -> None:
    daemon = asyncio.create_task(_daemon(settings, state, open_store()), name="daemon")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.cancel)
    try:
        await daemon
    except asyncio.CancelledError:
        _log.info("daemon ends", reason="asked to; containers and HAProxy go on")
    except BaseExceptionGroup as group:
        raise _first_cause(group) from group


def _probers(container_checks: DockerChecks) -> dict[type, Prober]:
    """Who asks each kind of check."""
    names = Names()
    return {
        HttpCheck: HttpProber(names),
        TcpCheck: TcpProber(names),
        ExecCheck: ExecProber(container_checks),
        DockerCheck: DockerProber(container_checks),
        GrpcCheck: GrpcProber(),
        DummyCheck: DummyProber(),
    }


async def _daemon(settings: DaemonSettings, state: StateDirectory, store: Store) -> None:
    """Assembles the loops around one board and runs them side by side."""
    board = Board()
    runtime = DockerRuntime(settings.docker_host)
    container_checks = DockerChecks(runtime.host)
    probers = _probers(container_checks)
    machine, keys = settings.machine, settings.keys
    record = RecordLoop(board=board, store=store, keys=keys, machine=machine, check=settings.listen)
    follower = EndpointFollower(store=store, keys=keys, problems=board.problems, history=board.history)
    containers = ContainersLoop(board=board, runtime=runtime, port_range=settings.port_range, files=state)
    loops: dict[str, Loop] = {
        "membership": Membership(
            board=board,
            store=store,
            keys=keys,
            address=machine.address,
            machine_id=machine_id(),
            ttl=settings.lease_ttl,
            files=state,
            new_id=_new_id,
        ),
        "configuration": ConfigurationLoop(board=board, store=store, keys=keys, machine=machine, files=state),
        "rollouts": RolloutsLoop(
            board=board,
            store=store,
            keys=keys,
            hands=containers,
            connector=TcpConnector(),
            files=state,
            ttl=settings.lease_ttl,
            new_id=_new_id,
        ),
        "containers": containers,
        "health": HealthLoop(board=board, probers=probers),
        "endpoints": EndpointsLoop(
            board=board, store=store, keys=keys, machine=machine, files=state, new_id=_new_id
        ),
        "follower": follower,
        "proxy": ProxyLoop(
            board=board,
            at=BalancerStore(store=store, keys=keys, address=machine.address, check=settings.listen),
            proxy=HAProxy(settings.haproxy),
            watch=follower,
            connector=TcpConnector(),
            files=state,
            quiet=settings.reload_quiet,
            longest=settings.reload_longest,
            lease_ttl=settings.lease_ttl,
        ),
        "record": record,
    }
    try:
        async with (
            serve(
                settings.listen_host,
                settings.listen_port,
                session=lambda: board.session.value.id if board.session.value else "",
                status=record.status,
            ),
            asyncio.TaskGroup() as group,
        ):
            _log.info("daemon starts", version=__version__, address=machine.address, store=store.address)
            for name, loop in loops.items():
                group.create_task(loop.run(), name=name)
    finally:
        for prober in probers.values():
            await prober.close()
        await container_checks.close()
        await runtime.close()
        await store.close()


def _allow_open_files() -> None:
    """Makes use of what the administrator grants: a thousand checks keep a thousand connections.

    The usual limit of 1,024 is there for programs that cannot have more. Ours is bounded, because what
    checks start inherits it, and some programs look at each possible descriptor.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _new_id() -> str:
    """Random, and short enough to be read aloud."""
    return secrets.token_hex(8)


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended the daemon: a person's first, whatever else it brought down."""
    known = group.subgroup(OrbitError)
    error: BaseException = known or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
