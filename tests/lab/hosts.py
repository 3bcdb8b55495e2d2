"""One host: a network, a process namespace, and what runs in them: an engine, a daemon, HAProxy.

The first process of the namespace does nothing but bury the dead. When it is killed everything on the
host is, containers too: that is how a host loses its power. Its directory is its disk, and stays.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from lab.commands import LabError
from lab.leftovers import processes_naming
from lab.network import Network, into
from lab.programs import MORTAL, Program, Starter, only_child
from support.docker import Engine
from support.machine import ORBITCTL, environment, eventually

_INIT = """
umount --recursive --lazy /run/netns  # namespaces of others must not live on in this one
mkdir -p /run/containerd              # one of the machine's own would start the containers outside
mount -t tmpfs none /run/containerd
echo ready
exec >/dev/null
sleep infinity
exit
"""
_CHECK = 1500
_PATIENCE = 1.0
_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


class Host:
    """Number ``number`` of a lab, with a network namespace and an address of its own.

    ``engine`` is its Docker engine as a person uses it; ``dockerd`` and ``daemon`` are the programs.
    """

    def __init__(
        self,
        number: int,
        *,
        network: Network,
        starter: Starter,
        directory: Path,
        tags: Sequence[str],
        options: Sequence[str],
    ) -> None:
        self.number = number
        self.network = network
        self.address = network.address(number)
        self.tags = tuple(tags)
        self.directory = directory
        self.haproxy = directory / "haproxy"
        self.engine = Engine(f"unix://{directory / 'docker.sock'}")
        self._starter = starter
        self._machine: subprocess.Popen[bytes] | None = None
        self._init = 0
        directory.mkdir()
        (directory / "daemon.json").write_text(json.dumps({"live-restore": True}))
        self.dockerd = self._program(_dockerd(directory, number, network.name), "dockerd.log")
        self._options = tuple(options)
        self.daemon = self._program(self._orbitctl(ORBITCTL), "daemon.log")

    @property
    def balances(self) -> bool:
        """Whether it is one of the load balancers."""
        return "lb" in self.tags

    @property
    def target(self) -> str:
        """Where its HAProxy listens."""
        return f"{self.address}:80"

    @property
    def is_on(self) -> bool:
        return self._machine is not None

    def power_on(self) -> None:
        """Its network and its engine start; ``boot`` is all of it."""
        if self.is_on:
            raise LabError(f"host {self.number} is on already")
        namespace = self.network.plug(self.number)
        command = [*MORTAL, *into(namespace), *_NAMESPACES, "sh", "-c", _INIT]
        self._machine = self._starter(
            lambda: subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )
        assert self._machine.stdout is not None
        with self._machine.stdout as said:
            if said.readline() != b"ready\n":
                raise LabError(f"host {self.number} does not start: its first process has ended")
        self._init = only_child(self._machine)
        self.start_dockerd()

    def boot(self) -> None:
        """On, with its engine answering and its daemon started."""
        self.power_on()
        self.wait_for_engine()
        self.daemon.start()

    def power_off(self) -> None:
        """Everything on it is gone at once, and nobody hears a word of it. Its disk stays."""
        if self._machine is None:
            return
        self.network.cut(self.number)  # sockets of processes that are killed would say good-bye
        if self._machine.poll() is None:
            os.kill(self._init, signal.SIGKILL)
            self._machine.wait()
        self._machine = None
        for program in (self.dockerd, self.daemon):
            program.forget()
        self.network.unplug(self.number)
        shutil.rmtree(self.directory / "exec", ignore_errors=True)

    def start_dockerd(self) -> None:
        """Starts the engine, without waiting until it answers."""
        (self.directory / "docker.pid").unlink(missing_ok=True)  # that pid may be somebody else's by now
        self.dockerd.start()

    def wait_for_engine(self) -> None:
        def answers() -> bool:
            self.dockerd.complain()
            return self.engine_answers()

        eventually(answers, what=f"the engine of host {self.number} answers")

    def run_as(self, *orbitctl: str) -> None:
        """Kills the daemon and starts it as another program: by default it is ``orbitctl`` again."""
        self.daemon.kill()
        self.daemon = self._program(self._orbitctl(orbitctl or ORBITCTL), "daemon.log")
        self.daemon.start()

    def engine_answers(self) -> bool:
        """Whether it does now: ``docker version`` would take much of the processor."""
        with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
            client.settimeout(_PATIENCE)
            client.connect(self.engine.host.removeprefix("unix://"))
            client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return client.recv(64).split(b" ")[1:2] == [b"200"]
        return False

    def listens(self) -> bool:
        """Whether its daemon can be reached. (The store has the session of a dead one for some seconds.)"""
        with suppress(OSError), socket.create_connection((self.address, _CHECK), timeout=_PATIENCE):
            return True
        return False

    def load(self, images: bytes) -> None:
        """Loads an archive of images into the engine."""
        self.engine.docker("load", "--quiet", stdin=images)

    def haproxy_pids(self) -> list[int]:
        """Its HAProxy's processes, as seen from outside of all hosts."""
        return [pid for pid, _ in processes_naming(f"{self.haproxy}/haproxy-master.sock")]

    def signal_haproxy(self, number: int) -> None:
        """A signal for the master and all workers."""
        for pid in self.haproxy_pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def memory(self) -> int:
        """Bytes that its processes use, with what they share counted by share."""
        namespace = Path(f"/proc/{self._init}/ns/pid").readlink()
        return sum(_memory(pid) for pid in _processes_in(namespace))

    def _behind(self) -> tuple[str, ...]:
        if self._machine is None:
            raise LabError(f"host {self.number} is off")
        return ("nsenter", f"--target={self._init}", "--net", "--mount", "--pid")

    def _program(self, command: Sequence[str], log: str) -> Program:
        return Program(
            self._starter,
            command,
            log=self.directory / log,
            behind=self._behind,
            inside=True,
            env=environment(),
        )

    def _orbitctl(self, orbitctl: Sequence[str]) -> list[str]:
        balancing = ["--haproxy-managed", "--haproxy-config-path", str(self.haproxy)]
        return [
            *(*orbitctl, "daemon"),
            *("--machine-address", self.address, "--machine-tags", ",".join(self.tags)),
            *("--state-dir", str(self.directory / "state"), "--docker-host", self.engine.host),
            *(balancing if self.balances else []),
            *self._options,
        ]


def _dockerd(directory: Path, number: int, lab: str) -> list[str]:
    paths = {"-p": "docker.pid", "--data-root": "data", "--exec-root": "exec", "--config-file": "daemon.json"}
    return [
        *("dockerd", "-H", f"unix://{directory / 'docker.sock'}"),
        *(word for option, name in paths.items() for word in (option, str(directory / name))),
        *("--bip", f"172.30.{number}.1/24"),
        *("--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{lab}/h{number}"),
    ]


def _processes_in(namespace: Path) -> Iterable[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "ns/pid").readlink() == namespace:
                    yield int(entry.name)


def _memory(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
