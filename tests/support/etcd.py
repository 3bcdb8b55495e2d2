"""A real etcd for tests: started on free ports, in a directory of its own, ended by its process id."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
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


class EtcdServer:
    """One etcd member. It keeps its ports and its data when it is stopped and started again."""

    def __init__(self, directory: Path, *, arguments: Sequence[str] = (), scheme: str = "http") -> None:
        client, peer = free_ports(2)
        self.directory = directory
        self.endpoint = f"127.0.0.1:{client}"
        self.client_url = f"{scheme}://{self.endpoint}"
        self.peer_url = f"http://127.0.0.1:{peer}"
        self.arguments = tuple(arguments)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "etcd is not running"
        return self._process.pid

    @property
    def log(self) -> Path:
        return self.directory / "etcd.log"

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
                    program,
                    *("--name", "test", "--data-dir", str(self.directory / "data")),
                    *("--listen-client-urls", self.client_url, "--advertise-client-urls", self.client_url),
                    *("--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url),
                    *("--initial-cluster", f"test={self.peer_url}", "--logger", "zap"),
                    # A short election time-out allows leases of one second.
                    *("--heartbeat-interval", "50", "--election-timeout", "500"),
                    *self.arguments,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
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
        """Stops the process with its connections open: it hangs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Ends ``freeze``."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

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
