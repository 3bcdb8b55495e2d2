"""The daemon's two pages: ``/check`` for other machines, ``/status`` for this one.

``/check`` says that the daemon is alive and which session it has, and nothing else: it listens on
the machine's address. ``/status`` tells everything that the machine's record has; it answers to
connections from loopback only, on the same port.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web

from orbitcontrol.codec.values import encode
from orbitcontrol.errors import UsageError
from orbitcontrol.log import Log

_log = Log(__name__)


_REASONS = {
    errno.EADDRINUSE: "another program listens there, or another daemon; end it, or give another --listen",
    errno.EADDRNOTAVAIL: "this machine does not have the address; mend --machine-address, or give --listen",
    errno.EACCES: "only root may listen on this port",
}


class CheckAnswer(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The body of ``/check``. ``session`` is "" while the daemon has none."""

    alive: bool = True
    session: str


@asynccontextmanager
async def serve(
    host: str, port: int, *, session: Callable[[], str], status: Callable[[], object]
) -> AsyncIterator[None]:
    """Answers for as long as the context lasts. Raises ``UsageError`` when the address is taken."""

    async def check(_: web.Request) -> web.Response:
        return _json(encode(CheckAnswer(session=session())))

    async def full_status(request: web.Request) -> web.Response:
        if request.remote is None or not ipaddress.ip_address(request.remote).is_loopback:
            raise web.HTTPForbidden(text="/status answers to this machine only\n")
        return _json(encode(status()))

    application = web.Application()
    application.add_routes([web.get("/check", check), web.get("/status", full_status)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await _listen(runner, host, port)
        if not _reachable_by_loopback(host):
            try:
                await _listen(runner, "127.0.0.1", port)
            except UsageError as error:
                _log.warning("status is not served", reason=error)
        yield
    finally:
        await runner.cleanup()


def _reachable_by_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port, reuse_address=True).start()
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise UsageError(f"--listen: {host}:{port} cannot be used: {reason}") from error


def _json(body: bytes) -> web.Response:
    return web.Response(body=body + b"\n", content_type="application/json")
