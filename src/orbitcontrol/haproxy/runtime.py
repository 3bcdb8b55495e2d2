"""HAProxy's runtime socket: commands to the worker that serves.

A batch is one connection in prompt mode, with some commands ahead of their answers: a thousand take
some tens of milliseconds. A worker that leaves after a reload listens no more, so a new connection
reaches the new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from orbitcontrol.codec.haproxy_runtime import Command, RunningServer, parse_servers
from orbitcontrol.codec.haproxy_stat import StatRow, parse_statistics
from orbitcontrol.errors import HAProxyError
from orbitcontrol.haproxy.master import NobodyListens
from orbitcontrol.planning.servers import Place

DEADLINE = 5.0

_AHEAD = 64
_SERVERS = 4
"""The kind of rows of ``show stat`` that are servers."""

_PROMPT = b"\n> "
_LONGEST_ANSWER = 64 << 20


class RuntimeSocket:
    """The runtime socket at ``path``."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def servers(self) -> dict[str, dict[str, RunningServer]]:
        """All servers as they run. Raises NobodyListens, or HAProxyError."""
        (reply,) = await self.ask(["show servers state"])
        servers = parse_servers(reply)
        if servers is None:
            raise HAProxyError(f"{self._path}: not an answer to 'show servers state': {reply[:100]!r}")
        return servers

    async def sessions(self, places: AbstractSet[Place]) -> dict[Place, int]:
        """The sessions of each server that runs, with those in its queue. Raises as ``servers``."""
        found = await self._sessions(sorted({place.section for place in places}), places)
        if places - found.keys():  # by its name HAProxy finds a frontend before the backend
            found |= await self._sessions(["-1"], places)
        return found

    async def _sessions(self, sections: Sequence[str], places: AbstractSet[Place]) -> dict[Place, int]:
        replies = await self.ask([f"show stat {section} {_SERVERS} -1" for section in sections])
        found = (row for reply in replies for row in parse_statistics(reply))
        return {
            place: row.sessions + row.queued
            for row in found
            if (place := Place(row.proxy, row.server)) in places
        }

    async def statistics(
        self, addresses: AbstractSet[str], places: AbstractSet[Place]
    ) -> tuple[StatRow, ...]:
        """What HAProxy says of the servers at these addresses, and at these places. Raises as ``servers``."""
        (reply,) = await self.ask([f"show stat -1 {_SERVERS} -1"])
        if not reply.startswith("# "):
            raise HAProxyError(f"{self._path}: not an answer to 'show stat': {reply[:100]!r}")
        names = {f"{place.section},{place.server}," for place in places}
        rows = parse_statistics(reply, naming=addresses | names)
        return tuple(
            row for row in rows if row.address in addresses or Place(row.proxy, row.server) in places
        )

    async def execute(self, commands: Sequence[Command]) -> list[str]:
        """Carries out all commands in order; what HAProxy refused, as ``backend/server: why``.

        A refusal does not stop those behind it.
        """
        replies = await self.ask([command.text() for command in commands])
        refusals = (
            (command, command.refusal(reply)) for command, reply in zip(commands, replies, strict=True)
        )
        return [f"{command.where}: {reason}" for command, reason in refusals if reason is not None]

    async def ask(self, commands: Sequence[str], *, deadline: float = DEADLINE) -> list[str]:
        """The answer to each command. Raises NobodyListens, or HAProxyError when not all were answered.

        ``deadline`` is the longest wait for one answer, in seconds.
        """
        try:
            async with asyncio.timeout(deadline) as patience:
                return await self._ask(commands, patience, deadline)
        except TimeoutError:
            raise HAProxyError(f"{self._path}: HAProxy did not answer in {deadline:g} s") from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise NobodyListens(
                f"{self._path}: no HAProxy listens here; is this the `stats socket` of its configuration?"
            ) from None
        except asyncio.IncompleteReadError:
            raise HAProxyError(f"{self._path}: HAProxy ended the connection before all was said") from None
        except (OSError, asyncio.LimitOverrunError) as error:
            raise HAProxyError(f"{self._path}: {error}") from error

    async def _ask(self, commands: Sequence[str], patience: asyncio.Timeout, deadline: float) -> list[str]:
        reader, writer = await asyncio.open_unix_connection(self._path, limit=_LONGEST_ANSWER)
        try:
            replies: list[str] = []
            lines = ["prompt", *commands]
            for begin in range(0, len(lines), _AHEAD):
                ahead = lines[begin : begin + _AHEAD]
                writer.write("".join(f"{line}\n" for line in ahead).encode(errors="surrogateescape"))
                for _ in ahead:
                    reply = await reader.readuntil(_PROMPT)
                    patience.reschedule(asyncio.get_running_loop().time() + deadline)
                    replies.append(reply.removesuffix(_PROMPT).decode(errors="replace"))
            return replies[1:]
        finally:
            writer.close()
