"""A load tells what it saw, and excuses nothing but what HTTP lets a client try again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lab.load import Load, Report
from lab.load_words import Plan
from lab.programs import Starter
from support.servers import Handler, free_port, serving

pytestmark = pytest.mark.integration

HEAD = b"HTTP/1.1 200 OK\r\nX-Revision: R1\r\nX-Instance: one\r\nContent-Length: %d\r\n\r\n"
PAGE = b"revision R1, container one\n"


async def asked(port: int, directory: Path, *, enough: int = 20, **fields: float) -> Report:
    """What clients saw of whoever listens there, once they have told so much or sent for a second."""
    plan = Plan(targets=(f"127.0.0.1:{port}",), rate=100, slow=0, **fields)  # type: ignore[arg-type]
    with Starter() as starter:
        load = Load(plan, starter=starter, directory=directory)
        await asyncio.to_thread(load.__enter__)
        try:
            async with asyncio.timeout(20):
                while len(load.events()) < enough:  # noqa: ASYNC110 -- another process writes them
                    await asyncio.sleep(0.02)
        finally:
            report = await asyncio.to_thread(load.stop)
    return report


async def request(reader: asyncio.StreamReader) -> bytes:
    """Reads a request; its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    return await reader.readexactly(4096) if head.startswith(b"POST") else b""


@asynccontextmanager
async def closing_after_one_answer() -> AsyncIterator[int]:
    """A server that takes a second request on a connection, and closes it without a word."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = await request(reader) or PAGE
        writer.write(HEAD % len(body) + body)
        await request(reader)

    async with serving(handler) as port:
        yield port


async def test_a_get_on_a_kept_connection_that_is_closed_under_it_is_tried_once_more(tmp_path: Path) -> None:
    async with closing_after_one_answer() as port:
        report = await asked(port, tmp_path, kept=1, posts=0)
    assert report.failures == []
    assert len(report.retries) > 5
    assert report.summary.answered == report.summary.sent


async def test_a_post_is_never_tried_again(tmp_path: Path) -> None:
    async with closing_after_one_answer() as port:
        report = await asked(port, tmp_path, kept=1, posts=1)
    assert report.retries == []
    assert {each.kind for each in report.failures} <= {"closed", "reset"}
    assert all(each.request.reused for each in report.failures)


async def test_a_request_that_hung_before_its_connection_closed_is_a_failure(tmp_path: Path) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(HEAD % len(PAGE) + PAGE)
        await request(reader)
        await asyncio.sleep(1.5)

    async with serving(handler) as port:
        report = await asked(port, tmp_path, kept=1, posts=0)
    assert report.retries == []
    assert {each.kind for each in report.failures} == {"closed"}


def saying(answer: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(answer)
        await writer.drain()

    return handler


@pytest.mark.parametrize(
    ("answer", "posts", "kind"),
    [
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", 0, "status"),
        (HEAD % 1000 + PAGE, 0, "truncated"),
        (HEAD % len(PAGE) + PAGE, 1, "wrong"),
        (HEAD.replace(b"R1", b"R2") % len(PAGE) + PAGE, 0, "wrong"),
        (b"", 0, "closed"),
    ],
    ids=["another status", "half an answer", "no echo", "no page of its revision", "no answer"],
)
async def test_what_is_no_answer_is_told_with_its_kind(
    answer: bytes, posts: int, kind: str, tmp_path: Path
) -> None:
    async with serving(saying(answer)) as port:
        report = await asked(port, tmp_path, enough=5, kept=0, posts=posts)
    assert {each.kind for each in report.failures} == {kind}
    assert len(report.failures) == report.summary.sent


async def test_a_port_where_nobody_listens_refuses(tmp_path: Path) -> None:
    report = await asked(free_port(), tmp_path, enough=5)
    assert {each.kind for each in report.failures} == {"refused"}
