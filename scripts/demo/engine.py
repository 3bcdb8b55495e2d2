"""The Docker engine of the demo: the one that answers here, or else one of its own.

An engine of its own lives in private mount and process namespaces: when its first process ends,
every container and every mount of it ends too, even if the demo is killed. It makes no firewall
rules and does not switch on forwarding; the only thing it leaves on the machine is the bridge
``docker0``, which is removed if it was not there before.

Two engines must never work in one network namespace. The test suite starts one as well, so both
hold the same lock while theirs runs.
"""

from __future__ import annotations

import fcntl
import http
import http.client
import os
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import show
from processes import Failed, start, stop, wait_until

_LOCK = Path("/tmp/orbit-test-dockerd.lock")
_BRIDGE = "docker0"
_START_SECONDS = 60

_CONTAIN = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)
# A containerd of the machine's own would start the containers outside of these namespaces: hide it.
_HIDE_CONTAINERD = '[ ! -d /run/containerd ] || mount -t tmpfs none /run/containerd; exec dockerd "$@"'


class Engine:
    """A context in which a Docker engine answers at ``host`` (``unix://…``)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()
        self.host = ""

    def __enter__(self) -> Self:
        show.heading("A Docker engine")
        named = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        if named.startswith("unix://") and _answers(named.removeprefix("unix://")):
            show.line(
                f"One answers at {named}: the demo uses it, and removes only its own containers and images."
            )
            self.host = named
            return self
        with self._stack:  # undone if it does not start
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        if os.geteuid() != 0:
            raise Failed(
                "no Docker engine answers here that you may use, and only root can start one: "
                "start Docker, or run `sudo make demo`"
            )
        show.line(
            "None answers here: starting one for the demo alone, with all its files in the demo's directory."
        )
        self._lock()
        if not _ip("link", "show", _BRIDGE):
            self._stack.callback(_ip, "link", "delete", _BRIDGE)
        at = self._directory
        log = at / "dockerd.log"
        process = start(
            [
                *(*_CONTAIN, "sh", "-c", _HIDE_CONTAINERD, "dockerd"),
                *("--host", f"unix://{at}/docker.sock", "--pidfile", f"{at}/dockerd.pid"),
                *("--data-root", f"{at}/docker", "--exec-root", f"{at}/exec"),
                *("--iptables=false", "--ip-masq=false", "--ip-forward=false"),
            ],
            log=log,
        )
        self._stack.callback(_stop, process)
        wait_until(
            lambda: process.poll() is not None or _answers(f"{at}/docker.sock"),
            timeout=_START_SECONDS,
            pause=0.1,
        )
        if not _answers(f"{at}/docker.sock"):
            show.log_tail(log)
            raise Failed("the Docker engine did not start: the end of its log is above")
        self.host = f"unix://{at}/docker.sock"

    def _lock(self) -> None:
        lock = self._stack.enter_context(_LOCK.open("a"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            show.line(
                "Another demo or test run has an engine of its own running here: waiting until it ends…"
            )
            fcntl.flock(lock, fcntl.LOCK_EX)


def _ip(*arguments: str) -> bool:
    """Whether ``ip`` could do it, in the network that this process is in."""
    return subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode == 0


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=2)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _answers(path: str) -> bool:
    """True when a Docker engine answers at the socket, and lets us in."""
    connection = _Connection(path)
    try:
        connection.request("GET", "/_ping")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(unshare: subprocess.Popen[bytes]) -> None:
    """Asks the engine to end, which is the first process of its namespace and ``unshare``'s only child.

    The demo has removed its containers by then. Whatever is left ends with the namespace.
    """
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
    try:
        for pid in children.read_text().split():
            os.kill(int(pid), 15)
        unshare.wait(15)
    except (OSError, subprocess.TimeoutExpired):
        stop(unshare, patience=0)
