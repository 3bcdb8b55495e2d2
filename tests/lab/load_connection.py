"""A client's connection, which knows exactly what it got before it ended."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from lab.load_words import FailureKind


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Broken(Exception):
    """There is no whole answer."""

    def __init__(self, kind: FailureKind, detail: str) -> None:
        super().__init__(detail)
        self.kind: FailureKind = kind
        self.detail = detail


class Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self.reused = False
        self.usable = True
        self._received = bytearray()
        self._answer: asyncio.Future[Answer] | None = None

    @classmethod
    async def to(cls, target: str) -> Connection:
        """A new connection. Raises Broken."""
        host, _, port = target.rpartition(":")
        try:
            _, connection = await asyncio.get_running_loop().create_connection(cls, host, int(port))
        except ConnectionRefusedError as error:
            raise Broken("refused", str(error)) from error
        except OSError as error:
            raise Broken("unreachable", str(error)) from error
        return connection

    async def ask(self, request: bytes) -> Answer:
        """The answer to a request. Raises Broken, and TimeoutError if that is around it."""
        self._received.clear()
        self._answer = asyncio.get_running_loop().create_future()
        if not self.usable:
            raise Broken("closed", "it was closed before the request")
        self._transport.write(request)
        try:
            answer = await self._answer
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._answer = None
        self.usable &= answer.headers.get("connection", "").lower() != "close"
        self.reused = True
        return answer

    def close(self) -> None:
        self.usable = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # nobody asked
            self.close()
            return
        self._received += data
        try:
            answer = _whole(bytes(self._received))
        except ValueError as error:
            self._fail(Broken("wrong", f"{error}: {bytes(self._received[:200])!r}"))
            return
        if answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def eof_received(self) -> bool:
        self.usable = False
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self._received:
            self._fail(Broken("truncated", f"after {len(self._received)} bytes: {exc or 'closed'}"))
        else:
            self._fail(Broken("reset" if exc else "closed", str(exc or "")))

    def _fail(self, error: Broken) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def _whole(received: bytes) -> Answer | None:
    """The answer if all of it is there. Raises ValueError for one that has no length."""
    head, found, body = received.partition(b"\r\n\r\n")
    if not found:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if "content-length" not in headers:
        raise ValueError("an answer without Content-Length")
    missing = int(headers["content-length"]) - len(body)
    if missing < 0:
        raise ValueError("an answer longer than its Content-Length")
    return Answer(int(first.split(" ")[1]), headers, body) if missing == 0 else None
