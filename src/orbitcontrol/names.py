"""Looking up the names that checks and registries have in place of addresses.

The system's resolver blocks, for half a minute when its servers are gone. In the event loop's own
small pool of threads, a handful of such names would delay all other checks and the store besides, and
a command could not end before its lookup does. So each lookup has a thread of its own, one at a time
for each name, and no more than ``_MOST`` are under way.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time

from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import Struct

_KEPT = 5.0
"""Seconds for which an answer is used again: checks of a machine ask for the same few names."""

_MOST = 64


class Address(Struct, frozen=True):
    """Where to connect: an address family and the socket address of that family, without its port."""

    family: int
    host: str
    scope: int = 0

    def with_port(self, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
        """As ``socket.connect`` takes it."""
        if self.family == socket.AF_INET6:
            return self.host, port, 0, self.scope
        return self.host, port


Addresses = tuple[Address, ...]


class Names:
    """Looks names up. ``addresses`` is bounded by its caller's time-out, not by the resolver's."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Addresses]] = {}
        self._asked: dict[str, asyncio.Future[Addresses]] = {}

    async def addresses(self, host: str) -> Addresses:
        """All addresses of a name, in the system's order. Raises OSError when there are none."""
        try:
            return _looked_up(host, socket.AI_NUMERICHOST)
        except socket.gaierror:
            pass  # a name
        until, known = self._known.get(host, (0.0, ()))
        if time.monotonic() < until:
            return known
        return await asyncio.shield(self._asked.get(host) or self._ask(host))

    def _ask(self, host: str) -> asyncio.Future[Addresses]:
        if len(self._asked) >= _MOST:
            raise OSError(f"{_MOST} names are being looked up already: do the name servers answer?")
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        answer.add_done_callback(lambda future: self._answered(host, future))
        self._asked[host] = answer
        # A daemon thread, because the end of the process must not wait for the resolver either.
        threading.Thread(target=_look_up, args=(host, loop, answer), daemon=True, name="lookup").start()
        return answer

    def _answered(self, host: str, future: asyncio.Future[Addresses]) -> None:
        self._asked.pop(host, None)
        now = time.monotonic()
        self._known = {name: entry for name, entry in self._known.items() if entry[0] > now}
        if future.exception() is None:
            self._known[host] = (now + _KEPT, future.result())


class Resolver(AbstractResolver):
    """``Names`` as aiohttp asks for them."""

    def __init__(self, names: Names) -> None:
        self._names = names

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address.host,
                port=port,
                family=address.family,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in await self._names.addresses(host)
            if family in {socket.AF_UNSPEC, address.family}
        ]

    async def close(self) -> None:
        """Nothing stays open."""


def _look_up(host: str, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Addresses]) -> None:
    found: Addresses | OSError
    try:
        found = _looked_up(host, 0)
    except OSError as error:
        found = error
    except UnicodeError as error:
        found = OSError(
            f"{host!r} is not a host name ({error.reason if hasattr(error, 'reason') else error})"
        )
    try:
        loop.call_soon_threadsafe(_deliver, answer, found)
    except RuntimeError:
        return  # the loop was closed meanwhile: nobody waits


def _deliver(answer: asyncio.Future[Addresses], found: Addresses | OSError) -> None:
    if answer.done():
        return
    if isinstance(found, OSError):
        answer.set_exception(found)
    else:
        answer.set_result(found)


def _looked_up(host: str, flags: int) -> Addresses:
    found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=flags)
    return tuple(
        Address(family, str(address[0]), address[3] if len(address) == 4 else 0)
        for family, _, _, _, address in found
    )
