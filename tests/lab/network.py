"""A switch, and cables to it: network namespaces on a bridge that lies in a namespace of its own.

A bridge in the machine's own namespace would be at the mercy of the firewall rules that a Docker engine
there makes. One more cable leads out to this process, so that tests and people reach every address of
the lab as they are.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.commands import LabError, ip, run

_LOCK = Path("/tmp/orbit-lab-subnet.lock")
_BRIDGE = "br0"
_CLIENTS = 254

_SETTINGS = (
    "net.ipv4.ip_forward=1",
    # a thousand connections a second must not run into the machine's limits instead of Orbit's
    "net.ipv4.tcp_tw_reuse=1",
    "net.core.somaxconn=4096",
)
_CONNTRACK = "net.netfilter.nf_conntrack_tcp_timeout_time_wait"


class Network:
    """A subnet of the lab's own. ``client`` is the address that this process has in it."""

    def __init__(self, name: str, subnet: str) -> None:
        self.name = name
        self.client = f"{subnet}.{_CLIENTS}"
        self._subnet = subnet
        self._switch = f"{name}-switch"

    def address(self, number: int) -> str:
        return f"{self._subnet}.{number}"

    def namespace(self, number: int) -> str:
        return f"{self.name}-{number}"

    def plug(self, number: int) -> str:
        """A new machine's network; its namespace. It has always the same address, on the wire too."""
        namespace = self.namespace(number)
        ip("netns", "add", namespace)
        ip("link", "set", "lo", "up", within=namespace)
        cable = ("type", "veth", "peer", "name", "eth0", "address", self._hardware(number))
        ip("link", "add", _port(number), *cable, "netns", namespace, within=self._switch)
        ip("link", "set", _port(number), "master", _BRIDGE, "up", within=self._switch)
        ip("address", "add", f"{self.address(number)}/24", "dev", "eth0", within=namespace)
        ip("link", "set", "eth0", "up", within=namespace)
        ip("route", "add", "default", "via", self.client, within=namespace)
        inside(namespace, "sysctl", "--quiet", "--write", *_SETTINGS)
        inside(namespace, "sysctl", "--quiet", "--write", "--ignore", f"{_CONNTRACK}=5")
        return namespace

    def unplug(self, number: int) -> None:
        """The network is gone, without a word to anybody."""
        ip("link", "delete", _port(number), within=self._switch)
        ip("netns", "delete", self.namespace(number))

    def cut(self, number: int) -> None:
        """Pulls the cable."""
        ip("link", "set", _port(number), "down", within=self._switch)

    def mend(self, number: int) -> None:
        ip("link", "set", _port(number), "up", within=self._switch)

    def deafen(self, number: int, *, to: str) -> None:
        """The machine hears nothing that comes from the address; what it sends arrives.

        Before anything else looks at the packets, so that published ports of containers are deaf, too.
        """
        inside(self.namespace(number), *_DROP, "--insert", "PREROUTING", "--source", to, "--jump", "DROP")

    def undeafen(self, number: int, *, to: str) -> None:
        inside(self.namespace(number), *_DROP, "--delete", "PREROUTING", "--source", to, "--jump", "DROP")

    def build(self) -> None:
        ip("netns", "add", self._switch)
        ip("link", "set", "lo", "up", within=self._switch)
        ip("link", "add", _BRIDGE, "type", "bridge", within=self._switch)
        ip("link", "set", _BRIDGE, "up", within=self._switch)
        out = self._way_out
        ip("link", "add", out, "type", "veth", "peer", "name", "clients", "netns", self._switch)
        ip("link", "set", "clients", "master", _BRIDGE, "up", within=self._switch)
        ip("address", "add", f"{self.client}/24", "dev", out)
        ip("link", "set", out, "up")

    def remove(self) -> None:
        """The end of the switch is the end of every cable in it, the one that leads out included."""
        ip("link", "delete", self._way_out)
        ip("netns", "delete", self._switch)

    @property
    def _way_out(self) -> str:
        return "ol" + self.name.removeprefix("orbit-lab-")

    def _hardware(self, number: int) -> str:
        return "02:" + ":".join(f"{int(part):02x}" for part in self.address(number).split(".")) + ":01"


_DROP = ("iptables", "--wait", "10", "--table", "raw")


@contextmanager
def network(name: str) -> Iterator[Network]:
    """A network on a subnet that nobody on this machine uses."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = Network(name, _free_subnet())
        built.build()
    try:
        yield built
    finally:
        built.remove()


def inside(namespace: str, *command: str) -> str:
    """Runs a command with a network namespace."""
    return run(*into(namespace), *command)


def into(namespace: str) -> tuple[str, ...]:
    """The command that another one is started through to have the network namespace."""
    return ("nsenter", f"--net=/run/netns/{namespace}")


def _port(number: int) -> str:
    """The name of a machine's port on the switch."""
    return f"h{number}"


def _free_subnet() -> str:
    """The first three numbers of a subnet's addresses, another for each process that may be first."""
    described = json.loads(ip("-json", "address")) + json.loads(ip("-json", "route"))
    taken = json.dumps(described)
    for attempt in range(256):
        subnet = f"10.99.{(os.getpid() + attempt) % 256}"
        if f'"{subnet}.' not in taken:
            return subnet
    raise LabError("every subnet of 10.99.0.0/16 is taken on this machine")
