"""HAProxy run by the daemon, in a session of its own, so that it outlives it.

The next daemon finds it by its master socket and goes on watching it; nothing is started or
reloaded for that. Its end is told by a pidfd, at once; then it is started again from the file on
disk, the first time without a pause, later after 1 s doubling to a minute.

``-db`` keeps the master in the foreground whatever the template says (``daemon`` would make it a
stranger's child). Everything it prints goes to ``haproxy.log`` beside the configuration: in 2.6
that is the only place that says why a reload failed.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from orbitcontrol.codec.haproxy import Processes
from orbitcontrol.errors import HAProxyError, HAProxyRejected
from orbitcontrol.haproxy.check import environment
from orbitcontrol.haproxy.master import Dropped, MasterSocket, NobodyListens, alerts
from orbitcontrol.haproxy.workers import LeavingWorkers
from orbitcontrol.log import Log
from orbitcontrol.planning.backoff import Backoff, ended, failed, seen
from orbitcontrol.planning.proxy import Life

_log = Log(__name__)

START_DEADLINE = 10.0
_LOOK_AGAIN = 0.02
_LONGEST_LOG = 16 << 20
_TAIL = 16 << 10


class ManagedProcess:
    """The HAProxy of one configuration file; its sockets, pid file and log lie beside it."""

    def __init__(self, config: Path, *, binary: str) -> None:
        self._config = config
        self._binary = binary
        self._master = MasterSocket(config.parent / "haproxy-master.sock")
        self.workers = LeavingWorkers(self._master)
        self._pid_file = config.parent / "haproxy.pid"
        self._log_file = config.parent / "haproxy.log"
        self._pidfd: int | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff()
        self._notify: Callable[[str], None] = lambda _: None
        self._retry: asyncio.TimerHandle | None = None

    def subscribe(self, notify: Callable[[str], None]) -> None:
        self._notify = notify

    async def ensure(self, *, start: bool) -> Life:
        """Adopts a running HAProxy, or starts it. See ``ports.Proxy``."""
        self._backoff = seen(self._backoff, up=self._pidfd is not None, now=time.monotonic())
        if self._pidfd is not None or await self._adopt():
            self._bound_log()
            return "running"
        if not start or not self._config.exists():
            return "down"
        if self._backoff.ready_at > time.monotonic():
            raise HAProxyError(
                f"HAProxy does not run: {self._backoff.reason}; it is started again with growing pauses"
            )
        await self._start()
        return "started"

    async def load(self) -> None:
        """Has HAProxy run what is on disk now: by a reload, or by starting it.

        Raises HAProxyRejected when it does not take it, HAProxyError when it cannot be told to.
        """
        if self._pidfd is None and not await self._adopt():
            await self._start()
            return
        offset = self._log_size()
        try:
            await self._master.reload(alive=lambda: self._pidfd is not None)
        except HAProxyRejected as error:
            said = self._refusals(offset) or error.messages
            _log.error("HAProxy refused a reload", haproxy="; ".join(said))
            raise HAProxyRejected(said) from error

    async def close(self) -> None:
        """Stops watching; HAProxy goes on."""
        if self._retry is not None:
            self._retry.cancel()
        self._forget()
        if self._child is not None:
            self._child.returncode = 0  # it outlives us on purpose: Popen is not to complain
            self._child = None

    async def _adopt(self) -> bool:
        """Finds the HAProxy that an earlier daemon started; False when there is none."""
        deadline = time.monotonic() + START_DEADLINE
        while True:
            try:
                running = await self._master.processes()
            except (NobodyListens, Dropped):
                # a master in the middle of a reload listens again in some milliseconds
                if not self._pid_file_is_alive() or time.monotonic() > deadline:
                    return False
                await asyncio.sleep(_LOOK_AGAIN)
                continue
            self._watch(running.master)
            _log.info("adopted the running HAProxy", pid=running.master)
            return True

    def _pid_file_is_alive(self) -> bool:
        """True when the pid file's process still is an HAProxy with our master socket."""
        try:
            pid = int(self._pid_file.read_text())
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return False
        return str(self._master.path).encode() in arguments

    async def _start(self) -> None:
        offset = self._log_size()
        try:
            running = await self._started(self._spawn(), offset)
        except HAProxyError as error:
            self._backoff = failed(self._backoff, reason=str(error), now=time.monotonic())
            self._retry_after_pause()
            raise
        self._watch(running.master)
        self._backoff = seen(self._backoff, up=True, now=time.monotonic())
        _log.info("started HAProxy", pid=running.master, config=self._config)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log_file.open("ab") as log:
            os.fchmod(log.fileno(), 0o600)
            try:
                child = subprocess.Popen(  # noqa: S603 -- the operator's own binary
                    [
                        self._binary,
                        "-W",
                        "-db",
                        "-V",  # says why it ends in spite of a `quiet` in the configuration
                        "-f",
                        self._config,
                        "-S",
                        f"{self._master.path},mode,600",
                        "-p",
                        self._pid_file,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=environment(),
                    start_new_session=True,
                )
            except OSError as error:
                raise HAProxyError(
                    f"{self._binary}: cannot be run: {error.strerror}; install HAProxy, or say where it is "
                    "with --haproxy-binary"
                ) from error
        self._child = child
        return child

    async def _started(self, child: subprocess.Popen[bytes], offset: int) -> Processes:
        """Waits until the new master answers and has a worker."""
        deadline = time.monotonic() + START_DEADLINE
        while True:
            if (status := child.poll()) is not None:
                said = self._refusals(offset) or ["it said nothing"]
                raise HAProxyRejected([f"HAProxy ended with {status} when started: {'; '.join(said)}"])
            try:
                running = await self._master.processes()
            except HAProxyError:
                running = None
            if running is not None and running.master == child.pid and running.workers:
                return running
            if time.monotonic() > deadline:
                child.kill()
                child.wait()
                raise HAProxyError(f"HAProxy was not up {START_DEADLINE:g} s after its start")
            await asyncio.sleep(_LOOK_AGAIN)

    def _watch(self, pid: int) -> None:
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise HAProxyError("HAProxy ended a moment after it answered") from None
        asyncio.get_running_loop().add_reader(self._pidfd, self._has_ended)

    def _has_ended(self) -> None:
        """The pidfd became readable: the master is gone, and its workers end with it."""
        self._forget()
        status = self._child.poll() if self._child is not None else None
        self._child = None
        reason = "it ended" if status is None else f"it ended with {status}"
        self._backoff = ended(self._backoff, reason=reason, now=time.monotonic())
        _log.error("HAProxy ended", status=status)
        self._notify("HAProxy ended")
        self._retry_after_pause()

    def _retry_after_pause(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        pause = self._backoff.ready_at - time.monotonic()
        if pause > 0:
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(pause + 0.01, self._notify, "HAProxy may be started again")

    def _forget(self) -> None:
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _log_size(self) -> int:
        try:
            return self._log_file.stat().st_size
        except OSError:
            return 0

    def _refusals(self, offset: int) -> list[str]:
        """The alerts that HAProxy printed after the log had ``offset`` bytes."""
        try:
            with self._log_file.open("rb") as log:
                log.seek(max(offset, self._log_size() - _TAIL))
                return alerts(log.read().decode(errors="replace"))
        except OSError:
            return []

    def _bound_log(self) -> None:
        """Empties a log that grew too long; HAProxy appends, so it goes on at the start."""
        if self._log_size() > _LONGEST_LOG:
            os.truncate(self._log_file, 0)
