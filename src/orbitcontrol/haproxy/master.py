"""HAProxy's master socket: who runs, and a reload whose outcome is read back.

2.7 and later answer ``reload`` with its success and log once the new worker is up. Before that the
answer is empty and the socket is closed for some milliseconds while the master executes itself
anew, so ``show proc`` is asked until the master's count of reloads has grown: it failed when the
count of failures is not 0, and worked when the serving workers are others than before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from orbitcontrol.codec.haproxy import (
    Processes,
    ReloadReply,
    Worker,
    parse_messages,
    parse_processes,
    parse_reload,
    parse_workers,
)
from orbitcontrol.errors import HAProxyError, HAProxyRejected

ANSWER_DEADLINE = 2.0
RELOAD_DEADLINE = 8.0
PATIENCE = 1.0
"""Seconds in which a master that starts or reloads listens again; 2.6 takes up to 0.1."""

_LOOK_AGAIN = 0.02
_LONGEST_ANSWER = 16 << 20


class NobodyListens(HAProxyError):
    """The socket does not exist, or no process accepts on it."""


class Dropped(HAProxyError):
    """The master dropped the connection: it executes itself anew, as it does when it starts or reloads."""


class MasterSocket:
    """One master socket. Each command is a connection of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def command(self, line: str, *, deadline: float = ANSWER_DEADLINE) -> str:
        """The whole answer to one command. Raises NobodyListens, Dropped, or HAProxyError at the deadline."""
        try:
            async with asyncio.timeout(deadline):
                return await self._ask(line)
        except TimeoutError:
            raise HAProxyError(f"{self.path}: no answer to {line!r} in {deadline:g} s") from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise NobodyListens(f"{self.path}: no HAProxy master listens here") from None
        except ConnectionError:
            raise Dropped(f"{self.path}: the HAProxy master dropped the connection") from None
        except OSError as error:
            raise HAProxyError(f"{self.path}: {error.strerror or error}") from error

    async def processes(self, *, patience: float = 0.0) -> Processes:
        """Who runs now. ``patience``: seconds to wait for a master that does not listen for the moment."""
        reply = await self._show_proc(patience)
        found = parse_processes(reply)
        if found is None:
            raise HAProxyError(f"{self.path}: not a master's answer to 'show proc': {reply[:100]!r}")
        return found

    async def workers(self, *, patience: float = 0.0) -> tuple[Worker, ...]:
        """What the master says of each worker, none left out; ``patience`` as for ``processes``."""
        reply = await self._show_proc(patience)
        if parse_processes(reply) is None or not _is_whole(reply):
            raise HAProxyError(f"{self.path}: the master did not say in full which workers it has")
        return parse_workers(reply)

    async def _show_proc(self, patience: float) -> str:
        until = time.monotonic() + patience
        while True:
            try:
                reply = await self.command("show proc")
                if _is_whole(reply) or time.monotonic() >= until:
                    return reply
            except (NobodyListens, Dropped):
                if time.monotonic() >= until:
                    raise
            await asyncio.sleep(_LOOK_AGAIN)

    async def reload(self, *, alive: Callable[[], bool] = lambda: True) -> None:
        """Reloads and waits for the outcome.

        Raises HAProxyRejected when the new worker did not come up, HAProxyError when nobody can
        tell: no answer, or a master that ended meanwhile, which ``alive`` would say.
        """
        before = await self.processes(patience=PATIENCE)
        try:
            reply = parse_reload(await self.command("reload", deadline=RELOAD_DEADLINE))
        except NobodyListens:
            raise
        except HAProxyError:  # the master executes itself anew and may drop the connection
            reply = ReloadReply(None)
        if reply.success is None:
            await self.outcome(before, alive=alive)
        elif not reply.success:
            raise HAProxyRejected(alerts(reply.log) or ["HAProxy did not say why"])

    async def outcome(self, before: Processes, *, alive: Callable[[], bool] = lambda: True) -> None:
        """Waits for the outcome of a reload asked for after ``before`` was read. Raises as ``reload``."""
        try:
            async with asyncio.timeout(RELOAD_DEADLINE):
                came_up = await self._new_worker(before, alive)
        except TimeoutError:
            raise HAProxyError(f"{self.path}: no new worker {RELOAD_DEADLINE:g} s after the reload") from None
        if not came_up:
            raise HAProxyRejected(["the new worker did not come up; HAProxy's log says why"])

    async def _new_worker(self, before: Processes, alive: Callable[[], bool]) -> bool:
        while alive():
            try:
                now = await self.processes()
            except HAProxyError:
                now = before
            if now.reloads != before.reloads or now.master != before.master:
                if now.failed:
                    return False
                if now.workers - before.workers:
                    return True
            await asyncio.sleep(_LOOK_AGAIN)
        raise HAProxyError("HAProxy ended during the reload")

    async def _ask(self, line: str) -> str:
        reader, writer = await asyncio.open_unix_connection(str(self.path), limit=1 << 20)
        try:
            writer.write(line.encode() + b"\n")
            writer.write_eof()  # without it the master keeps the connection open
            chunks: list[bytes] = []
            while chunk := await reader.read(1 << 16):
                chunks.append(chunk)
                if sum(map(len, chunks)) > _LONGEST_ANSWER:
                    raise HAProxyError(f"{self.path}: the answer to {line!r} has no end")
            return b"".join(chunks).decode(errors="replace")
        finally:
            writer.close()


def _is_whole(reply: str) -> bool:
    """Whether it was not cut off, as 2.6 does in a reload: an empty line closes it."""
    return reply.endswith("\n\n")


def alerts(log: str) -> list[str]:
    """What a log of HAProxy refuses, each thing once."""
    found = [message.text for message in parse_messages(log) if message.severity == "alert"]
    return list(dict.fromkeys(found))
