"""A real Docker engine of the tests' own, and images for it made of the static busybox.

Two engines in one network namespace break each other's rules, so the engine is started under a
lock that other test runs on the machine wait for. ``ORBIT_TEST_DOCKER_HOST`` names an existing
engine to use instead.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

LOCK = Path("/tmp/orbit-test-dockerd.lock")
BUSYBOX = Path("/bin/busybox")

_BRIDGE, _BRIDGE_ADDRESS = "orbit-test0", "172.29.251.1/24"
_SECOND_BRIDGE, _SECOND_ADDRESS = "orbit-test1", "172.29.252.1/24"
_LEAVES_RULES_ALONE = ("--iptables=false", "--ip6tables=false", "--ip-masq=false")
_STARTUP = 60.0
_RELOADED = "Reloaded configuration:"
_TEST_TIMEOUT = 900


class Engine:
    """A Docker engine for tests, driven through its command line as a person would."""

    def __init__(self, host: str) -> None:
        self.host = host

    def docker(self, *arguments: str, stdin: bytes | None = None) -> str:
        """Runs ``docker …`` against the engine; its output. Raises CalledProcessError."""
        ran = subprocess.run(
            ["docker", "-H", self.host, *arguments], input=stdin, capture_output=True, timeout=60, check=False
        )
        if ran.returncode != 0:
            raise AssertionError(f"docker {' '.join(arguments)}: {ran.stderr.decode()}")
        return ran.stdout.decode().strip()

    def image(self, reference: str, *, says: str = "", environment: dict[str, str] | None = None) -> str:
        """An image of the static busybox under ``reference``; ``/www/index.html`` is ``says``."""
        if not self.docker("images", "--quiet", reference):
            changes = [
                f"--change=ENV {name}={json.dumps(text)}" for name, text in (environment or {}).items()
            ]
            self.docker("import", *changes, "-", reference, stdin=_root_filesystem(says or reference))
        return reference

    def remove_image(self, reference: str) -> None:
        self.docker("rmi", "--force", reference)

    def names(self) -> set[str]:
        """The names of all containers."""
        return set(self.docker("ps", "--all", "--format", "{{.Names}}").split())

    def inspect(self, container: str, format: str) -> str:
        return self.docker("inspect", "--format", format, container)


class Way:
    """A way to the engine whose connections can be cut."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._blocked = False
        self._open: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._blocked:
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        with suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(_pass_on(reader, far_writer), _pass_on(far_reader, writer))
        for side in (writer, far_writer):
            side.close()
            with suppress(OSError):
                await side.wait_closed()
        self._open.discard(task)

    def block(self) -> None:
        """Cuts what is open and refuses what comes, until ``unblock``."""
        self._blocked = True
        self.cut()

    def unblock(self) -> None:
        self._blocked = False

    def cut(self) -> set[asyncio.Task[None]]:
        """Cuts every open connection; what must end before the last of it is gone."""
        for task in self._open:
            task.cancel()
        return set(self._open)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


@asynccontextmanager
async def way_to(engine: Engine, socket: Path) -> AsyncIterator[Way]:
    """A Unix socket that leads to the engine; everything on it is cut in the end."""
    way = Way(engine.host.removeprefix("unix://"))
    async with await asyncio.start_unix_server(way.serve, socket):
        yield way
        if connections := way.cut():
            await asyncio.wait(connections)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that needs the engine may wait for other runs: that is not its own slowness."""
    for item in items:
        if "dockerd" in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TEST_TIMEOUT))


@pytest.fixture(scope="session")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine for the whole run. A missing dockerd fails the tests that need it."""
    if host := os.environ.get("ORBIT_TEST_DOCKER_HOST"):
        yield Engine(host)
        return
    for program in ("dockerd", "docker", "ip"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is missing: install Docker's engine and iproute2, or run make setup")
    with engine_of_its_own(tmp_path_factory.mktemp("dockerd")) as engine:
        yield engine


@pytest.fixture(scope="session")
def second_dockerd(dockerd: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Another engine beside the first, for a second machine: it makes no rules, only proxies for ports."""
    directory = tmp_path_factory.mktemp("dockerd-2")
    with (
        _bridge(_SECOND_BRIDGE, _SECOND_ADDRESS),
        started_engine(directory, bridge=_SECOND_BRIDGE, options=_LEAVES_RULES_ALONE) as engine,
    ):
        yield engine


@pytest.fixture
def engine(dockerd: Engine) -> Iterator[Engine]:
    """The engine, emptied after the test (an existing engine of somebody else's loses nothing else)."""
    with _emptied(dockerd):
        yield dockerd


@pytest.fixture
def second_engine(second_dockerd: Engine) -> Iterator[Engine]:
    """The second engine, emptied after the test."""
    with _emptied(second_dockerd):
        yield second_dockerd


@contextmanager
def _emptied(engine: Engine) -> Iterator[None]:
    before = set(engine.docker("ps", "--all", "--quiet").split())
    yield
    if left := set(engine.docker("ps", "--all", "--quiet").split()) - before:
        engine.docker("rm", "--force", "--volumes", *left)


@pytest.fixture
def own_engine(engine: Engine) -> OwnEngine:
    """The engine, if it is the tests' own: one of somebody else's is not to be frozen or restarted."""
    if not isinstance(engine, OwnEngine):
        pytest.skip("needs an engine of its own: unset ORBIT_TEST_DOCKER_HOST")
    return engine


@contextmanager
def engine_of_its_own(directory: Path) -> Iterator[OwnEngine]:
    """An engine that waits for others of this kind to end before it starts."""
    directory.mkdir(exist_ok=True)
    with _locked(LOCK), _bridge(), started_engine(directory) as engine:
        yield engine


class OwnEngine(Engine):
    """An engine whose program the tests may freeze, end and start again; its state is in ``directory``."""

    def __init__(self, directory: Path, *, bridge: str = _BRIDGE, options: Sequence[str] = ()) -> None:
        super().__init__(f"unix://{directory / 'docker.sock'}")
        self._directory = directory
        self._options = ["--bridge", bridge, *options]
        self._process: subprocess.Popen[bytes] | None = None
        self._configure({})

    def start(self) -> None:
        """Starts it, and returns when it answers."""
        paths = {"-p": "pid", "--data-root": "data", "--exec-root": "exec", "--config-file": "daemon.json"}
        places = [word for option, name in paths.items() for word in (option, str(self._directory / name))]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["dockerd", "-H", self.host, *self._options, *places], stdout=log, stderr=log
            )
        _wait_until_it_answers(self, self._process, self._directory / "log")

    def end(self) -> None:
        """Ends it as its service manager would; with live restore the containers go on."""
        self.signal(signal.SIGTERM)
        self._running.wait(timeout=30)

    def signal(self, number: signal.Signals) -> None:
        self._running.send_signal(number)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It hangs; its containers go on."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    @contextmanager
    def live_restore(self) -> Iterator[None]:
        """Containers survive its end."""
        with self._reloaded({"live-restore": True}):
            yield

    @contextmanager
    def calling_insecure(self, registry: str) -> Iterator[None]:
        """It looks at no certificate of the registry."""
        with self._reloaded({"insecure-registries": [registry]}):
            yield

    @contextmanager
    def _reloaded(self, settings: dict[str, Any]) -> Iterator[None]:
        self._reload(settings)
        try:
            yield
        finally:
            self._reload({})

    def _reload(self, settings: dict[str, Any]) -> None:
        """Returns when the engine says that it has: a signal to end could overtake this one."""
        log = self._directory / "log"
        before = log.read_text().count(_RELOADED)
        self._configure(settings)
        self.signal(signal.SIGHUP)
        deadline = time.monotonic() + _STARTUP
        while log.read_text().count(_RELOADED) == before:
            assert time.monotonic() < deadline, f"dockerd does not reload:\n{log.read_text()[-2000:]}"
            time.sleep(0.02)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def _configure(self, settings: dict[str, Any]) -> None:
        text = json.dumps({"live-restore": False, **settings})
        (self._directory / "daemon.json").write_text(text)


@contextmanager
def started_engine(
    directory: Path, *, bridge: str = _BRIDGE, options: Sequence[str] = ()
) -> Iterator[OwnEngine]:
    """A dockerd with all its state below ``directory``, on a bridge that exists; ended by its pid."""
    engine = OwnEngine(directory, bridge=bridge, options=options)
    try:
        engine.start()
        yield engine
        if ids := engine.docker("ps", "--all", "--quiet").split():
            engine.docker("rm", "--force", "--volumes", *ids)
    finally:
        engine.end()
        _unmount_below(directory)


def _wait_until_it_answers(engine: Engine, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _STARTUP
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"dockerd ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            engine.docker("version")
        except AssertionError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"dockerd does not answer after {_STARTUP:g} s:\n{log.read_text()[-2000:]}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _bridge(name: str = _BRIDGE, address: str = _BRIDGE_ADDRESS) -> Iterator[None]:
    subprocess.run(["ip", "link", "del", name], capture_output=True, check=False)  # left by a killed run
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    subprocess.run(["ip", "addr", "add", address, "dev", name], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)


def _unmount_below(directory: Path) -> None:
    """Mounts of containers' namespaces that an engine leaves behind, deepest first."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((one for one in mounts if one.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", mount], capture_output=True, check=False)


def _root_filesystem(page: str) -> bytes:
    """A tar with busybox, its usual names, and a web page."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        add_file(tar, "bin/busybox", BUSYBOX.read_bytes(), mode=0o755)
        add_file(tar, "www/index.html", page.encode(), mode=0o644)
        for name in ("sh", "httpd", "sleep", "true", "false", "cat", "nc"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return content.getvalue()


def add_file(tar: tarfile.TarFile, name: str, data: bytes, *, mode: int) -> None:
    """Adds a file that is nowhere on the disk."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
