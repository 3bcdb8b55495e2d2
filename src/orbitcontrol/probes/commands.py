"""Running a command on this machine for a check: bounded, and ended together with all it started.

A command is the leader of a session of its own. When it ends, or is not waited for any longer, its
whole process group is killed; what has left the group is found by ``Leftovers``. It gets no
descriptors of the daemon, nothing to read, and only the environment it is given.

No thread waits for it: the event loop watches a pidfd and one end of a pipe. It is started by the
shell, also when it needs none, because the system call that starts a program blocks the whole daemon
until the program is found: a directory on a dead network drive must hold up the shell alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress

_READ = 65536
_CLOSING = 2.0

_EXEC = ("/bin/sh", "-c", 'exec "$@"', "sh")


class Commands:
    """All the commands that run for checks."""

    def __init__(self) -> None:
        self._running: dict[Hashable, _Command] = {}

    def is_stuck(self, key: Hashable) -> bool:
        """True while a command of this key was killed and has not ended: it waits for a device, say."""
        return key in self._running

    async def run(
        self,
        key: Hashable,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        take: Callable[[bytes], None],
    ) -> int:
        """Runs the command to its end; its exit code, negative for a signal.

        ``take`` gets what it prints; what it raises ends the command and is raised here. So does a
        cancellation. One that ``key`` ran before ends first. Raises OSError when nothing can be started.
        """
        if before := self._running.get(key):
            await asyncio.shield(before.reaped)
        running = _Command(command, environment, take)
        self._running[key] = running
        running.reaped.add_done_callback(lambda _: self._running.pop(key, None))
        try:
            return await asyncio.shield(running.ended)
        finally:
            running.kill()

    async def close(self) -> None:
        """Kills what runs and waits a little for its end."""
        ending = [running.reaped for running in self._running.values()]
        for running in list(self._running.values()):
            running.kill()
        if ending:
            await asyncio.wait(ending, timeout=_CLOSING)


class _Command:
    """One command from its start to its end.

    ``ended`` has its exit code, or the exception of ``take``; ``reaped`` is done when it is gone.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], take: Callable[[bytes], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._take = take
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self.reaped: asyncio.Future[None] = self._loop.create_future()
        self._pipe: int | None
        self._pipe, far_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.set_blocking(far_end, True)
            self._process = _started(command, environment, far_end)
        except BaseException:
            os.close(self._pipe)
            raise
        finally:
            os.close(far_end)
        try:
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError:
            self._kill_group()
            self._process.wait()
            os.close(self._pipe)
            raise
        self._loop.add_reader(self._pidfd, self._on_end)
        self._loop.add_reader(self._pipe, self._on_output)
        self._on_piece(b"")

    def kill(self) -> None:
        """Kills the group, if it has not ended; what it prints is heard no longer."""
        self._close_pipe()
        if not self.reaped.done():
            self._kill_group()

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        # While the leader is not waited for, its process group cannot be another's.
        self._kill_group()
        code = self._process.wait()
        os.close(self._pidfd)
        while self._pipe is not None and self._on_output():
            pass
        self._close_pipe()
        if not self.ended.done():
            self.ended.set_result(code)
        self.reaped.set_result(None)

    def _on_output(self) -> bool:
        """Passes on what was printed; False when there is no more for now."""
        if self._pipe is None:
            return False
        try:
            piece = os.read(self._pipe, _READ)
        except BlockingIOError:
            return False
        if not piece:
            self._close_pipe()
            return False
        return self._on_piece(piece)

    def _on_piece(self, piece: bytes) -> bool:
        try:
            self._take(piece)
        except Exception as error:  # noqa: BLE001 -- raised where the command is waited for
            if not self.ended.done():
                self.ended.set_exception(error)
            self._close_pipe()
            return False
        return True

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            self._loop.remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = None

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _started(command: Sequence[str], environment: Mapping[str, str], output: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 -- running what the configuration says is the purpose
        [*_EXEC, *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        cwd="/",
        env=environment,
    )
