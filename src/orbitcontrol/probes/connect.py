"""Whether anybody accepts a TCP connection: a bare question, outside of any service's checks."""

from __future__ import annotations

import asyncio
import errno
import socket

_OUR_OWN = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EADDRNOTAVAIL,
        errno.EACCES,
        errno.EPERM,
    }
)
"""What says something about this machine and nothing about the other."""


class TcpConnector:
    """Connects, and closes again without a word."""

    async def connects(self, address: str, *, timeout: float) -> bool | None:
        """True when ``host:port`` accepts within ``timeout`` seconds; None when it could not be asked."""
        name, _, number = address.rpartition(":")
        if not number.isdigit():
            return None
        try:
            async with asyncio.timeout(timeout):
                _, writer = await asyncio.open_connection(name.strip("[]"), int(number))
        except TimeoutError:
            return False
        except (socket.gaierror, OverflowError, UnicodeError):
            return None
        except OSError as error:
            return None if error.errno in _OUR_OWN else False
        # with nobody listening, a free port may be given to this very connection, which then meets itself
        itself = writer.get_extra_info("sockname") == writer.get_extra_info("peername")
        writer.transport.abort()
        return not itself
