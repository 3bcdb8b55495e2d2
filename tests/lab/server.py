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

It does without asyncio, whose import alone would take most of the time in which a container starts.
"""

from __future__ import annotations

import heapq
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from itertools import count

PORT = 8080
REVISION = os.environ.get("REVISION", "unknown")
BEHAVIOUR = os.environ.get("BEHAVIOUR", "good")
ON_TERM = os.environ.get("ON_TERM", "die")
INSTANCE = socket.gethostname()

_BODY = f"revision {REVISION}, container {INSTANCE}\n".encode()
_LARGEST_HEAD = 65536
_BACKLOG = 4096


class Server:
    """Serves until SIGTERM, in one thread: what is ready is handled, then what is due."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.open: set[Connection] = set()
        self.is_ending = False
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._listening = socket.create_server(("", PORT), backlog=_BACKLOG)
        self._listening.setblocking(False)
        self.selector.register(self._listening, selectors.EVENT_READ, self._accept)
        self._told, self._signals = socket.socketpair()
        self._signals.setblocking(False)
        self.selector.register(self._told, selectors.EVENT_READ, self._end)
        signal.set_wakeup_fd(self._signals.fileno())

    def run(self) -> None:
        """Until every answer is finished after SIGTERM."""
        while not self.is_ending or self.open:
            pause = max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
            for key, ready in self.selector.select(pause):
                key.data(ready)
            while self._due and self._due[0][0] <= time.monotonic():
                heapq.heappop(self._due)[2]()

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Calls it in so many seconds."""
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), call))

    def _accept(self, _ready: int) -> None:
        try:
            while True:
                Connection(self, self._listening.accept()[0])
        except OSError:  # nobody waits any more
            return

    def _end(self, _ready: int) -> None:
        self.selector.unregister(self._told)
        self.selector.unregister(self._listening)
        self._listening.close()
        self.is_ending = True
        for each in list(self.open):
            each.finish()


class Connection:
    """One connection; its requests are answered one after the other."""

    def __init__(self, server: Server, client: socket.socket) -> None:
        self._server = server
        self._client = client
        self._received = bytearray()
        self._unsent = bytearray()
        self._busy = False
        self._closes = False
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.open.add(self)
        server.selector.register(client, selectors.EVENT_READ, self._ready)

    def finish(self) -> None:
        """Closes the connection once nothing is being answered on it."""
        self._closes = True
        if not self._busy and not self._unsent:
            self._close()

    def _close(self) -> None:
        if self in self._server.open:
            self._server.open.discard(self)
            self._server.selector.unregister(self._client)
            self._client.close()

    def _ready(self, ready: int) -> None:
        if ready & selectors.EVENT_WRITE:
            self._send(b"")
        if not ready & selectors.EVENT_READ:
            return
        try:
            data = self._client.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        self._received += data
        self._answer_next()

    def _send(self, data: bytes) -> None:
        self._unsent += data
        try:
            del self._unsent[: self._client.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._close()
            return
        writing = selectors.EVENT_WRITE if self._unsent else 0
        if self in self._server.open:
            self._server.selector.modify(self._client, selectors.EVENT_READ | writing, self._ready)
        if self._closes and not self._busy and not self._unsent:
            self._close()

    def _answer_next(self) -> None:
        while not self._busy and self in self._server.open:
            head, found, rest = bytes(self._received).partition(b"\r\n\r\n")
            if not found:
                if len(head) > _LARGEST_HEAD:
                    self._close()
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
        if now:
            self._send(answer[:now])
        self._server.later(float(seconds), lambda: self._end_later(answer[now:], closes=closes))

    def _end_later(self, rest: bytes, *, closes: bool) -> None:
        self._end(rest, closes=closes)
        self._answer_next()

    def _end(self, rest: bytes, *, closes: bool) -> None:
        if self not in self._server.open:
            return
        self._busy = False
        self._closes = self._closes or closes or self._server.is_ending
        self._send(rest)


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()


def serve() -> None:
    """Serves until SIGTERM."""
    server = Server()
    dies = ON_TERM != "finish"
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM) if dies else None)
    server.run()


if __name__ == "__main__":
    if BEHAVIOUR == "exits":
        sys.exit("this revision cannot start: it was made so")
    serve()
