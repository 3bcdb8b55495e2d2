"""A machine for tests: `orbitctl daemon` as a process of its own, and the commands of a person."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from orbitcontrol.cli import run
from orbitcontrol.model.stored import Delete, KeyValue, Put, Range
from orbitcontrol.ports import Store
from orbitcontrol.store.open import open_store
from support.etcd import EtcdServer, free_ports

T = TypeVar("T")

ORBITCTL = [sys.executable, "-m", "orbitcontrol"]
PATIENCE = 60.0


def eventually(look: Callable[[], T], *, what: str, timeout: float = PATIENCE) -> T:
    """The first true thing that ``look`` returns; fails, saying ``what`` never came, after a while."""
    deadline = time.monotonic() + timeout
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {what}; last seen: {seen!r}")
        time.sleep(0.05)


class Ran:
    """What a command printed and how it ended."""

    def __init__(self, finished: subprocess.CompletedProcess[str]) -> None:
        self.code = finished.returncode
        self.out = finished.stdout
        self.err = finished.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cluster:
    """A store, and everything that a test starts on it."""

    def __init__(self, directory: Path, store: str, base: str = "/orbit") -> None:
        self.directory = directory
        self.store = store
        self.base = base
        self.options = ["--store", store, "--etcd-base-path", base]
        self.machines: list[Machine] = []

    def orbitctl(self, *arguments: str, code: int | None = 0) -> Ran:
        """Runs one command against the store; ``code`` None accepts any exit code."""
        command = [*ORBITCTL, *self.options, *arguments]
        ran = Ran(subprocess.run(command, capture_output=True, text=True, timeout=60, check=False))
        if code is not None:
            assert ran.code == code, f"{' '.join(arguments)} ended with {ran.code}:\n{ran.out}\n{ran.err}"
        assert "Traceback" not in ran.err
        return ran

    def look(self, *arguments: str) -> Any:
        """What a command that only looks prints as JSON: for tests that wait until it says something.

        It runs in this process. A process of its own for every look would keep a processor busy with
        starting Python while what the test waits for needs it.
        """
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = run([*self.options, *arguments, "-o", "json"])
        assert code == 0, f"{' '.join(arguments)} ended with {code}"
        return json.loads(printed.getvalue())

    def machine(self, address: str = "127.0.0.1", *, tags: str = "app", **options: str | bool) -> Machine:
        """A machine on the store, not started yet; ``haproxy_managed=True`` is ``--haproxy-managed``."""
        machine = Machine(self, address, tags, options)
        self.machines.append(machine)
        return machine

    def tree(self, files: dict[str, Any], *, name: str = "tree") -> Path:
        """Writes a configuration tree: JSON for everything that is not text."""
        root = self.directory / name
        for path, content in files.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content if isinstance(content, str) else json.dumps(content))
        return root

    def endpoints(self, service: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.look("endpoints", *([service] if service else []))
        return found

    def stored(self, below: str) -> list[KeyValue]:
        """The keys below the base path, as the store has them."""
        reading = self._ask(lambda store: store.read(Range.prefix(f"{self.base}/{below}")))
        return list(reading.ranges[0])

    def write(self, below: str, content: bytes | None) -> None:
        """Puts a key as somebody else's program might; None deletes it."""
        key = f"{self.base}/{below}"
        operation = Delete(Range.single(key)) if content is None else Put(key, content)
        self._ask(lambda store: store.commit([], [operation]))

    def replace(self, puts: dict[str, bytes], deletes: list[str]) -> None:
        """Puts and deletes whole keys in one transaction."""
        operations = [Put(key, value) for key, value in puts.items()]
        gone = [Delete(Range.single(key)) for key in deletes]
        self._ask(lambda store: store.commit([], [*operations, *gone]))

    def wipe(self) -> None:
        """Deletes everything, leased keys too, as if the store had lost its disks."""
        self._ask(lambda store: store.commit([], [Delete(Range.prefix(f"{self.base}/"))]))

    def revoke(self, lease: int) -> None:
        """Ends a lease, as if its time were over."""
        self._ask(lambda store: store.revoke(lease))

    def _ask(self, question: Callable[[Store], Awaitable[T]]) -> T:
        async def session() -> T:
            store = open_store(self.store)
            try:
                return await question(store)
            finally:
                await store.close()

        return asyncio.run(session())

    def service(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.look("service", name)
        return found


class Machine:
    """One daemon. It keeps its state directory and its ports when it is stopped and started again."""

    def __init__(self, cluster: Cluster, address: str, tags: str, options: dict[str, str | bool]) -> None:
        self.cluster = cluster
        self.address = address
        self.directory = cluster.directory / f"machine-{address}"
        self.directory.mkdir(exist_ok=True)
        self.listen = f"{address}:{free_ports(1)[0]}"
        self.log = self.directory / "log"
        self._arguments = ["--machine-address", address, "--machine-tags", tags, "--listen", self.listen]
        for name, value in options.items():
            flag = "--" + name.replace("_", "-")
            self._arguments += [flag] if value is True else [flag, str(value)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the daemon is not running"
        return self._process.pid

    def start(self, *, ready: bool = True) -> None:
        """Starts the daemon; with ``ready`` waits until each of its services has been judged."""
        state = ["--state-dir", str(self.directory / "state")]
        command = [*ORBITCTL, "daemon", *self.cluster.options, *state, *self._arguments]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment())
        if ready:
            eventually(self.is_ready, what=f"machine {self.address} ready\n{self.text()}")

    def is_ready(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            pytest.fail(f"the daemon ended with {self._process.returncode}:\n{self.text()}")
        rows = self.cluster.look("machines")
        return any(row["Address"] == self.address and row["State"] == "ready" for row in rows)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends the daemon by a signal; its exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        code = self._process.wait(timeout=PATIENCE)
        self._process = None
        return code

    def ended(self) -> int:
        """Waits until the daemon has ended by itself; its exit code."""
        assert self._process is not None
        code = self._process.wait(timeout=PATIENCE)
        self._process = None
        return code

    def text(self) -> str:
        """What the daemon has logged."""
        return self.log.read_text() if self.log.exists() else ""

    def changes_of_haproxy(self) -> int:
        """How often the daemon has changed its HAProxy, by what it has logged."""
        log, said = self.text(), ("HAProxy reload", "servers changed at runtime", "servers put right")
        return sum(log.count(words) for words in said)

    def close(self) -> None:
        if self._process is not None:
            self.stop(signal.SIGKILL)


@pytest.fixture(params=["sqlite", "etcd"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """An empty store of each kind, and the machines that the test starts on it."""
    if request.param == "sqlite":
        cluster = Cluster(tmp_path, f"sqlite://{tmp_path}/store.db")
    else:
        server: EtcdServer = request.getfixturevalue("etcd_server")
        cluster = Cluster(tmp_path, f"etcd://{server.endpoint}", base=f"/{secrets.token_hex(4)}")
    try:
        yield cluster
    finally:
        for machine in cluster.machines:
            machine.close()


def environment() -> dict[str, str]:
    """This process's, without what would be settings of orbitctl."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ORBITCTL_")}
