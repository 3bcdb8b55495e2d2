"""What a TCP connect comes to: a bare question, outside of any service's checks.

After the time-out it is the kernel that is asked, not the clock: when this process was paused, an answer and
the time-out are both there when it goes on, and only one of them is true.
"""

from __future__ import annotations

import asyncio
import errno
import socket

from orbitcontrol.names import Address, Names
from orbitcontrol.planning.gone import Answer

_BY_ERROR: dict[int, Answer] = {
    0: "accepted",
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "refused",
    errno.ECONNABORTED: "refused",
    errno.ENOPROTOOPT: "refused",
    errno.ETIMEDOUT: "silent",
    errno.EHOSTUNREACH: "silent",
    errno.EHOSTDOWN: "silent",
    errno.ENETUNREACH: "silent",
}
"""All others say something about this machine and nothing about the other: no descriptors, no permission …"""

_STRONGEST: tuple[Answer, ...] = ("accepted", "refused", "unasked", "silent")
"""Of a name with several addresses the first of these that one of them gives."""


class TcpConnector:
    """Connects, and closes again without a word."""

    def __init__(self, names: Names | None = None) -> None:
        self._names = names or Names()

    async def connects(self, address: str, *, timeout: float) -> bool | None:
        """True when ``host:port`` accepts within ``timeout`` seconds; None when it could not be asked."""
        answer = await self.answer(address, timeout=timeout)
        return None if answer == "unasked" else answer == "accepted"

    async def answer(self, address: str, *, timeout: float) -> Answer:
        """What ``host:port`` answers within ``timeout`` seconds."""
        name, _, number = address.rpartition(":")
        if not (number.isdigit() and 0 < int(number) < 65536):
            return "unasked"
        try:
            async with asyncio.timeout(timeout):
                found = await self._names.addresses(name.strip("[]"))
        except (OSError, UnicodeError):  # a time-out is one
            return "unasked"
        answers = await asyncio.gather(*(_answer(one, int(number), within=timeout) for one in found))
        return next(answer for answer in _STRONGEST if answer in answers)


async def _answer(where: Address, port: int, *, within: float) -> Answer:
    try:
        with socket.socket(where.family, socket.SOCK_STREAM) as connection:
            connection.setblocking(False)
            error = connection.connect_ex(where.with_port(port))
            if error == errno.EINPROGRESS:
                error = await _outcome(connection, within=within)
            # with nobody listening, a free port may be given to this very connection, which then meets itself
            if error == 0 and connection.getsockname() == connection.getpeername():
                return "refused"
    except OSError as failure:
        error = failure.errno or errno.EIO
    return _BY_ERROR.get(error, "unasked")


async def _outcome(connection: socket.socket, *, within: float) -> int:
    """The error number of a connect under way, 0 when it was accepted."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_writer(connection, ended.set)
    try:
        async with asyncio.timeout(within):
            await ended.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_writer(connection)
    error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        return error
    try:
        connection.getpeername()
    except OSError:
        return errno.ETIMEDOUT
    return 0
