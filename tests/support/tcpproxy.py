"""A TCP proxy that loses what passes through it, on command: requests, answers, or the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_CHUNK = 65536


class TcpProxy:
    """Forwards connections to ``target`` (``host:port``). What it loses is gone: cut the connections then."""

    def __init__(self, target: str) -> None:
        self.endpoint = ""
        self.lose_requests = False
        self.lose_answers = False
        self.lost = asyncio.Event()
        """Set when something was lost."""
        self._target = target
        self._connections: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Breaks all connections, and forwards faithfully from now on."""
        self.lose_requests = self.lose_answers = False
        self.lost.clear()
        for connection in self._connections:
            connection.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        host, _, port = self._target.rpartition(":")
        try:
            server_reader, server_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        both = {writer, server_writer}
        self._connections |= both
        pumps = [
            asyncio.create_task(self._pump(reader, server_writer, requests=True)),
            asyncio.create_task(self._pump(server_reader, writer, requests=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._connections -= both
            for connection in both:
                connection.transport.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, requests: bool
    ) -> None:
        while data := await source.read(_CHUNK):
            if self.lose_requests if requests else self.lose_answers:
                self.lost.set()
            else:
                sink.write(data)
                await sink.drain()


@asynccontextmanager
async def tcp_proxy(target: str) -> AsyncIterator[TcpProxy]:
    """A proxy before ``target``, on a free port."""
    proxy = TcpProxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.endpoint = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        await server.wait_closed()
