"""A real etcd for tests, one or three: on free ports, in directories of their own, ended by process id."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

_READY_WITHIN = 30.0


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on at the moment, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _is_stopped(thread: Path) -> bool:
    """True for a thread in the kernel's state T; proc(5) has the state after the name in parentheses."""
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"


@dataclass(frozen=True)
class Place:
    """A network in which a member alone listens on etcd's own ports, and the command that leads into it."""

    address: str
    command: tuple[str, ...]


class EtcdServer:
    """One etcd member. It keeps its ports and its data when it is stopped and started again.

    Alone unless ``initial_cluster`` is set before it starts for the first time.
    """

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "test",
        arguments: Sequence[str] = (),
        scheme: str = "http",
        place: Place | None = None,
    ) -> None:
        client, peer = (2379, 2380) if place else free_ports(2)
        address = place.address if place else "127.0.0.1"
        self.name = name
        self.directory = directory
        self.endpoint = f"{address}:{client}"
        self.client_url = f"{scheme}://{self.endpoint}"
        self.peer_url = f"http://{address}:{peer}"
        self.initial_cluster = f"{name}={self.peer_url}"
        self.arguments = tuple(arguments)
        self._command = place.command if place else ()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "etcd is not running"
        return self._process.pid

    @property
    def log(self) -> Path:
        return self.directory / "etcd.log"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def watchers(self) -> int:
        """How many watches the server keeps."""
        connection = http.client.HTTPConnection(self.endpoint, timeout=5)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        found = re.search(r"^etcd_debugging_mvcc_watcher_total (\d+)", text, re.MULTILINE)
        assert found
        return int(found[1])

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        self.launch()
        self.wait_until_healthy()

    def launch(self) -> None:
        """Starts the server without waiting (a member of a cluster is healthy only with the others)."""
        assert self._process is None, "etcd runs already"
        program = shutil.which("etcd")
        assert program, "etcd is not installed"
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._command,
                    program,
                    *("--name", self.name, "--data-dir", str(self.data)),
                    *("--listen-client-urls", self.client_url, "--advertise-client-urls", self.client_url),
                    *("--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url),
                    *("--initial-cluster", self.initial_cluster, "--logger", "zap"),
                    # A short election time-out allows leases of one second.
                    *("--heartbeat-interval", "50", "--election-timeout", "500"),
                    *self.arguments,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal is not for it
            )

    def wait_until_healthy(self) -> None:
        """Waits until the server takes writes."""
        deadline = time.monotonic() + _READY_WITHIN
        while not self._healthy():
            assert self._process is not None
            assert self._process.poll() is None, f"etcd ended:\n{self.log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"etcd is not ready:\n{self.log.read_text()[-2000:]}"
            time.sleep(0.02)

    def _healthy(self) -> bool:
        if self.client_url.startswith("https"):
            with socket.socket() as probe:
                host, _, port = self.endpoint.rpartition(":")
                return probe.connect_ex((host, int(port))) == 0
        connection = http.client.HTTPConnection(self.endpoint, timeout=1)
        try:
            connection.request("GET", "/health")
            return bool(json.load(connection.getresponse())["health"] == "true")
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        """Ends the server in an orderly way; nothing happens if it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the server at once."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stops the process with its connections open: it hangs when this returns."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)
            threads = Path(f"/proc/{self._process.pid}/task")
            while not all(_is_stopped(thread) for thread in threads.iterdir()):
                time.sleep(0.001)

    def thaw(self) -> None:
        """Ends ``freeze``."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Ends the server and deletes all it knew; it starts empty."""
        self.kill()
        shutil.rmtree(self.data)

    def save(self, snapshot: Path) -> None:
        """Backs the data up into a file."""
        self.etcdctl("snapshot", "save", str(snapshot))

    def restore(self, snapshot: Path) -> None:
        """Ends the server and puts a backup in the place of its data; it starts with that."""
        self.wipe()
        self.etcdctl(
            *("snapshot", "restore", str(snapshot), "--data-dir", str(self.data), "--name", self.name),
            *("--initial-cluster", self.initial_cluster, "--initial-advertise-peer-urls", self.peer_url),
        )

    def etcdctl(self, *arguments: str) -> str:
        """The output of etcdctl against this server; it fails the test if the command fails."""
        program = shutil.which("etcdctl")
        assert program, "etcdctl is not installed"
        done = subprocess.run(
            [program, f"--endpoints={self.client_url}", *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self.thaw()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


class EtcdCluster:
    """Three members. Whatever is done to one of them leaves the others alone."""

    def __init__(self, directory: Path, *, places: Sequence[Place] | None = None) -> None:
        # etcd's own time-outs: the elections of three members on a busy machine need them.
        patient = ("--heartbeat-interval", "100", "--election-timeout", "1000")
        self.members = tuple(
            EtcdServer(directory / name, name=name, arguments=patient, place=place)
            for name, place in zip(("one", "two", "three"), places or (None,) * 3, strict=True)
        )
        together = ",".join(member.initial_cluster for member in self.members)
        for member in self.members:
            member.initial_cluster = together

    @property
    def url(self) -> str:
        return f"etcd://{','.join(member.endpoint for member in self.members)}"

    def start(self) -> None:
        """Starts all members and waits until they answer."""
        for member in self.members:
            member.launch()
        for member in self.members:
            member.wait_until_healthy()

    def kill(self) -> None:
        """Ends all members at once."""
        for member in self.members:
            member.kill()

    def restore(self, snapshot: Path) -> None:
        """Ends all members and puts the same backup in the place of their data."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda member: member.restore(snapshot), self.members))

    def watched(self) -> EtcdServer:
        """The one member that serves watches."""
        (serving,) = [member for member in self.members if member.watchers()]
        return serving

    def lead(self, member: EtcdServer) -> None:
        """Makes a member the leader, if it is not."""
        status = json.loads(member.etcdctl("endpoint", "status", "--write-out", "json"))[0]["Status"]
        if status["leader"] != status["header"]["member_id"]:
            everyone = ",".join(each.client_url for each in self.members)
            member.etcdctl("move-leader", f"{status['header']['member_id']:x}", f"--endpoints={everyone}")

    def others(self, *these: EtcdServer) -> tuple[EtcdServer, ...]:
        """The members but these."""
        return tuple(member for member in self.members if member not in these)


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """An etcd shared by the tests of a session: leave it running, and start from ``Delete`` of your keys."""
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    """An etcd for one test, which may stop, kill or freeze it."""
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def etcd_cluster(tmp_path: Path) -> Iterator[EtcdCluster]:
    """A cluster of three for one test, which may stop, kill or freeze its members."""
    cluster = EtcdCluster(tmp_path / "cluster")
    cluster.start()
    yield cluster
    cluster.kill()
