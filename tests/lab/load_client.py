"""The clients of a load, in a process of their own: ``python -m lab.load_client PLAN``.

The rate is kept whether answers come or not (an open loop), so that a service which hangs is asked no
less. Ends when its standard input does: then it awaits what is open, and writes its summary.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import time
from collections import Counter, defaultdict
from contextlib import suppress
from itertools import count
from pathlib import Path

import msgspec

from lab.load_connection import Answer, Broken, Connection
from lab.load_words import Event, Failure, FailureKind, Plan, Request, Retry, Sighting, Summary

_MOST_OPEN = 6000
_PRIORITY = -10
_AT_ONCE = 1.0
"""An idle connection that is closed under a request says so within this; what takes longer was at work."""


class Clients:
    """All clients of one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._payload = self._random.randbytes(plan.body)
        self._idle: dict[str, list[Connection]] = defaultdict(list)
        self._open: set[asyncio.Task[None]] = set()
        self._seen: set[tuple[str, str, str]] = set()
        self._took: list[float] = []
        self._answers: Counter[str] = Counter()
        self._last: dict[str, float] = {}
        self._sent = self._closed_idle = 0
        self._behind = 0.0

    async def run(self, ended: asyncio.Event) -> None:
        """Sends until ``ended``, then awaits what is open."""
        began = time.monotonic()
        for number in count():
            due = began + number / self._plan.rate
            if (pause := due - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            if ended.is_set():
                break
            self._behind = max(self._behind, time.monotonic() - due)
            self._send(number)
        over = time.monotonic()
        if self._open:
            await asyncio.wait(self._open)
        self._tell(self._summary(began, over))

    def _send(self, number: int) -> None:
        plan, chance = self._plan, self._random.random
        path = "/"
        if chance() < plan.slow:
            path = f"/?{('slow', 'late')[number % 2]}={plan.slow_seconds:g}"
        method = "POST" if chance() < plan.posts else "GET"
        target = plan.targets[number % len(plan.targets)]
        kept = chance() < plan.kept
        self._sent += 1
        if len(self._open) >= _MOST_OPEN:
            now = time.monotonic()
            unsent = Request(at=now, target=target, method=method, path=path, reused=False)
            self._fail("unsent", f"{len(self._open)} requests are open", unsent)
            return
        task = asyncio.create_task(self._one(target, method, path, kept=kept))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _one(self, target: str, method: str, path: str, *, kept: bool) -> None:
        """One request, told as a failure if it has none of the answers that it may have."""
        connection = self._idle_connection(target) if kept else None
        request = Request(
            at=time.monotonic(), target=target, method=method, path=path, reused=connection is not None
        )
        try:
            async with asyncio.timeout(self._plan.timeout):
                answer, connection = await self._answered(request, connection, kept=kept)
        except Broken as broken:
            self._fail(broken.kind, broken.detail, request)
            return
        except TimeoutError:
            self._fail("timeout", f"no whole answer within {self._plan.timeout:g} s", request)
            return
        if kept and connection.usable:
            self._idle[target].append(connection)
        else:
            connection.close()
        self._judge(answer, request)

    async def _answered(
        self, request: Request, connection: Connection | None, *, kept: bool
    ) -> tuple[Answer, Connection]:
        """The answer, and the connection that it came on."""
        text = self._text(request, kept=kept)
        if connection is not None:
            try:
                return await connection.ask(text), connection
            except Broken as broken:
                connection.close()
                nothing_came = broken.kind in {"closed", "reset"}
                at_once = time.monotonic() - request.at < _AT_ONCE
                if request.method != "GET" or not nothing_came or not at_once:
                    raise
                self._tell(Retry(at=time.monotonic(), request=request))
        connection = await Connection.to(request.target)
        try:
            return await connection.ask(text), connection
        except Broken:
            connection.close()
            raise

    def _idle_connection(self, target: str) -> Connection | None:
        idle = self._idle[target]
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
            self._closed_idle += 1
        return None

    def _text(self, request: Request, *, kept: bool) -> bytes:
        body = self._payload if request.method == "POST" else b""
        head = (
            f"{request.method} {request.path} HTTP/1.1\r\nHost: {request.target}\r\n"
            f"{f'Content-Length: {len(body)}' + chr(13) + chr(10) if body else ''}"
            f"Connection: {'keep-alive' if kept else 'close'}\r\n\r\n"
        )
        return head.encode() + body

    def _judge(self, answer: Answer, request: Request) -> None:
        now = time.monotonic()
        if answer.status != 200:
            self._fail("status", f"{answer.status} {answer.body[:100]!r}", request)
            return
        revision, instance = answer.headers.get("x-revision", ""), answer.headers.get("x-instance", "")
        expected = self._payload if request.method == "POST" else f"revision {revision},".encode()
        if not revision or not answer.body.startswith(expected):
            self._fail("wrong", f"{len(answer.body)} bytes: {answer.body[:100]!r}", request)
            return
        self._answers[revision] += 1
        self._last[revision] = now
        if request.path == "/":
            self._took.append(now - request.at)
        if (sighting := (request.target, revision, instance)) not in self._seen:
            self._seen.add(sighting)
            self._tell(Sighting(at=now, target=request.target, revision=revision, instance=instance))

    def _fail(self, kind: FailureKind, detail: str, request: Request) -> None:
        self._tell(Failure(at=time.monotonic(), kind=kind, detail=detail, request=request))

    def _summary(self, began: float, ended: float) -> Summary:
        took = sorted(self._took) or [0.0]
        return Summary(
            began=began,
            ended=ended,
            sent=self._sent,
            answered=self._answers.total(),
            closed_idle=self._closed_idle,
            behind=self._behind,
            quick=(took[len(took) // 2], took[len(took) * 99 // 100], took[-1]),
            answers=dict(self._answers),
            last=self._last,
        )

    @staticmethod
    def _tell(event: Event) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
        sys.stdout.buffer.flush()


def _go_first() -> None:
    """Clients that wait for the processor would measure themselves; sched(7) has the two priorities."""
    with suppress(OSError):
        os.nice(_PRIORITY)
        Path("/proc/self/autogroup").write_text(str(_PRIORITY))


async def _main(plan: Plan) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def more() -> None:
        if not os.read(0, 1024):
            loop.remove_reader(0)
            ended.set()

    loop.add_reader(0, more)
    _go_first()
    gc.freeze()
    await Clients(plan).run(ended)


if __name__ == "__main__":
    asyncio.run(_main(msgspec.json.decode(sys.argv[1], type=Plan)))
