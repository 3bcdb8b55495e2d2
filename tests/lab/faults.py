"""What can happen to a host: blocks in which something is broken, and blows that are over at once.

What a block broke is mended at its end, whatever happened in it. Programs that were killed are started
again by whoever wants them back: ``host.daemon.start()``, ``host.start_dockerd()``,
``lab.start_member(name)``; HAProxy by the daemon. Power: ``host.power_off()``, ``host.boot()``.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from lab.hosts import Host
from lab.programs import Program
from support.etcd import EtcdServer
from support.machine import eventually

_HEEDLESS = """
from orbitcontrol.cli import main
from orbitcontrol.planning import rollout_acks, rollout_replacement
rollout_replacement.draining = lambda *_, **__: rollout_acks.Draining("ended")
main()
"""


@contextmanager
def cut_off(host: Host) -> Iterator[None]:
    """Nothing reaches the host or leaves it; it goes on by itself."""
    host.network.cut(host.number)
    try:
        yield
    finally:
        host.network.mend(host.number)


@contextmanager
def deaf(host: Host, *addresses: str) -> Iterator[None]:
    """The host hears nothing from the addresses; what it sends them arrives."""
    with ExitStack() as mended:
        for address in addresses:
            host.network.deafen(host.number, to=address)
            mended.callback(host.network.undeafen, host.number, to=address)
        yield


@contextmanager
def frozen(program: Program) -> Iterator[None]:
    """A daemon or an engine hangs with its connections open."""
    program.freeze()
    try:
        yield
    finally:
        program.thaw()


@contextmanager
def heedless(host: Host) -> Iterator[None]:
    """Its daemon is one that stops containers at once, whoever has not confirmed a drain."""
    host.run_as(sys.executable, "-c", _HEEDLESS)
    try:
        yield
    finally:
        host.run_as()


@contextmanager
def frozen_haproxy(host: Host) -> Iterator[None]:
    """The host's HAProxy hangs: connections to it are made, and nobody answers."""
    host.signal_haproxy(signal.SIGSTOP)
    try:
        yield
    finally:
        host.signal_haproxy(signal.SIGCONT)


@contextmanager
def frozen_member(member: EtcdServer) -> Iterator[None]:
    """A member of etcd hangs."""
    member.freeze()
    try:
        yield
    finally:
        member.thaw()


def kill_haproxy(host: Host) -> None:
    """All of its processes are gone when this returns; a daemon that runs starts it again."""
    gone = set(host.haproxy_pids())
    host.signal_haproxy(signal.SIGKILL)
    eventually(lambda: not gone & set(host.haproxy_pids()), what="HAProxy's processes are gone")
