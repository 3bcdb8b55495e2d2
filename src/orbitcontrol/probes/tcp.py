"""The tcp check: passes when a connection is accepted."""

from __future__ import annotations

import asyncio
import socket

from orbitcontrol.model.runs import ProbeResult, Run
from orbitcontrol.model.service import Check, TcpCheck
from orbitcontrol.names import Address, Names
from orbitcontrol.probes.reasons import failed, failed_by_system


class TcpProber:
    """Connects, and closes again without a word. A name with several addresses passes on any of them."""

    def __init__(self, names: Names | None = None) -> None:
        self._names = names or Names()

    async def probe(self, check: Check, run: Run) -> ProbeResult:
        """Asks once."""
        assert isinstance(check, TcpCheck)  # noqa: S101 -- the table of probers says so
        where = check.host_port
        name, _, number = where.rpartition(":")
        if not (name and number.isascii() and number.isdigit() and 0 < int(number) < 65536):
            return ProbeResult(passed=False, detail=f"{where!r} is not host:port")
        try:
            async with asyncio.timeout(check.connect_timeout):
                addresses = await self._names.addresses(name.removeprefix("[").removesuffix("]"))
                await _connect_to_any(addresses, int(number), within=check.connect_timeout)
        except TimeoutError:
            return failed(where, f"no connection within {check.connect_timeout:g} s")
        except OSError as error:
            return failed_by_system(where, error)
        except UnicodeError:
            return failed(where, "this is not a host name")
        return ProbeResult(passed=True, detail="connected")

    async def close(self) -> None:
        """Nothing stays open between questions."""


async def _connect_to_any(addresses: tuple[Address, ...], port: int, *, within: float) -> None:
    """Tries one address after the other; each has its share of the time. Raises the last one's error."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    for position, address in enumerate(addresses):
        share = (end - loop.time()) / (len(addresses) - position)
        try:
            async with asyncio.timeout(share):
                await _connect(address, port)
        except OSError:  # a time-out is one
            if position == len(addresses) - 1:
                raise
        else:
            return


async def _connect(address: Address, port: int) -> None:
    with socket.socket(address.family, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, address.with_port(port))
        # With nobody listening, a port of the ephemeral range can be given to this very connection,
        # and TCP then connects it to itself.
        if connection.getsockname() == connection.getpeername():
            raise ConnectionRefusedError(111, "Connection refused")
