"""The web server inside the lab's images; its bytes go into them as they are.

Each answer names the revision (``X-Revision``) and the container (``X-Instance``).

    GET /health   200, or 503 in an image that never becomes healthy
    GET /…        a line with revision and container
    POST /…       the body that came
    …?late=2      the answer begins after 2 s
    …?slow=2      head and half of the body come at once, the rest after 2 s

``BEHAVIOUR`` is ``good``, ``unhealthy`` or ``exits`` (at once, with a complaint). On SIGTERM it dies
with all its connections, as most programs do that nobody taught better: a request that is lost then was
sent to a container that was being stopped. With ``ON_TERM=finish`` it stops listening, finishes its
answers and ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

PORT = 8080
REVISION = os.environ.get("REVISION", "unknown")
BEHAVIOUR = os.environ.get("BEHAVIOUR", "good")
ON_TERM = os.environ.get("ON_TERM", "die")
INSTANCE = socket.gethostname()

_BODY = f"revision {REVISION}, container {INSTANCE}\n".encode()
_LARGEST_HEAD = 65536
_BACKLOG = 4096


class Connection(asyncio.Protocol):
    """One connection; its requests are answered one after the other."""

    open: set[Connection] = set()  # noqa: RUF012 -- shared on purpose

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = bytearray()
        self._busy = False
        self.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._answer_next()

    def finish(self) -> None:
        """Closes the connection once nothing is being answered on it."""
        if not self._busy:
            self._transport.close()

    def _answer_next(self) -> None:
        if self._busy or self._transport.is_closing():
            return
        head, found, rest = bytes(self._received).partition(b"\r\n\r\n")
        if not found:
            if len(head) > _LARGEST_HEAD:
                self._transport.abort()
            return
        request, _, lines = head.decode("latin-1").partition("\r\n")
        headers = dict(_header(line) for line in lines.split("\r\n") if line)
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._received = bytearray(rest[length:])
        method, target = request.split(" ")[:2]
        closes = headers.get("connection", "").lower() == "close" or request.endswith("HTTP/1.0")
        self._answer(method, target, rest[:length], closes=closes)

    def _answer(self, method: str, target: str, body: bytes, *, closes: bool) -> None:
        path, _, query = target.partition("?")
        how, _, seconds = query.partition("=")
        ill = path == "/health" and BEHAVIOUR == "unhealthy"
        content = body if method == "POST" else _BODY
        head = (
            f"HTTP/1.1 {'503 Service Unavailable' if ill else '200 OK'}\r\n"
            f"Content-Length: {len(content)}\r\nContent-Type: text/plain\r\n"
            f"X-Revision: {REVISION}\r\nX-Instance: {INSTANCE}\r\n"
            f"{'Connection: close' + chr(13) + chr(10) if closes else ''}\r\n"
        ).encode()
        self._busy = True
        now = {"late": 0, "slow": len(head) + len(content) // 2}.get(how)
        answer = head + content
        if now is None:
            self._end(answer, closes=closes)
            return
        self._transport.write(answer[:now])
        asyncio.get_running_loop().call_later(float(seconds), self._end_later, answer[now:], closes)

    def _end_later(self, rest: bytes, closes: bool) -> None:  # noqa: FBT001 -- call_later knows no keywords
        self._end(rest, closes=closes)
        self._answer_next()

    def _end(self, rest: bytes, *, closes: bool) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(rest)
        self._busy = False
        if closes or _Ending.begun:
            self._transport.close()


class _Ending:
    begun = False


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()


async def serve() -> None:
    """Serves until SIGTERM."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    if ON_TERM != "finish":
        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    server = await loop.create_server(Connection, sock=socket.create_server(("", PORT)), backlog=_BACKLOG)
    await ended.wait()
    _Ending.begun = True
    server.close()
    for each in list(Connection.open):
        each.finish()
    while Connection.open:  # noqa: ASYNC110 -- a program that ends has time
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    if BEHAVIOUR == "exits":
        sys.exit("this revision cannot start: it was made so")
    asyncio.run(serve())
