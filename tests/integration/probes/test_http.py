from __future__ import annotations

import asyncio
import ssl
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from orbitcontrol.model.durations import Duration
from orbitcontrol.model.runs import ProbeResult, Run
from orbitcontrol.model.service import HttpCheck
from orbitcontrol.probes.http import HttpProber
from support.scarcity import no_descriptors_left
from support.servers import answering, forever, free_port, full_backlog, resetting, serving, silent

pytestmark = pytest.mark.integration

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"
LATE = 20.0
"""Seconds after which a check counts as one that never ends; it has 0.6 s, but this machine may be busy."""
PATIENT: dict[str, Any] = {"connect_timeout": Duration(5), "response_timeout": Duration(5)}
"""For all that is not about time."""


@pytest_asyncio.fixture
async def prober() -> AsyncIterator[HttpProber]:
    prober = HttpProber()
    yield prober
    await prober.close()


async def ask(prober: HttpProber, run: Run, url: str, *, patient: bool = True, **fields: Any) -> ProbeResult:
    begun = time.monotonic()
    result = await prober.probe(HttpCheck(url=url, **((PATIENT if patient else {}) | fields)), run)
    assert time.monotonic() - begun < LATE
    return result


@pytest.mark.parametrize(
    ("status", "expected", "passes"),
    [("200", "2", True), ("204", 204, True), ("302", "2", False), ("302", "3", True), ("503", "200", False)],
)
async def test_the_status_decides_by_its_beginning_and_redirects_are_not_followed(
    prober: HttpProber, run: Run, *, status: str, expected: str | int, passes: bool
) -> None:
    head = f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\nLocation: /elsewhere\r\n\r\n".encode()
    asked: list[bytes] = []
    async with serving(answering(head, asked=asked)) as port:
        result = await ask(prober, run, f"http://127.0.0.1:{port}/", expect_http_status=expected)
    assert result.passed == passes
    assert len(asked) == 1
    if not passes:
        wanted = str(expected).ljust(3, "x")
        assert result.detail == f"http://127.0.0.1:{port}/: status {status}, expected {wanted}"


async def test_the_request_is_as_configured(prober: HttpProber, run: Run) -> None:
    asked: list[bytes] = []
    async with serving(answering(OK, asked=asked)) as port:
        result = await ask(
            prober,
            run,
            f"http://127.0.0.1:{port}/health?deep=1",
            method="POST",
            http_host="web.example",
            headers={"host": "other.example", "X-Probe": "yes", "user-agent": "mine"},
            username="me",
            password="päss:word",
        )
    assert result.passed
    line, *headers = asked[0].decode().strip().split("\r\n")
    assert line == "POST /health?deep=1 HTTP/1.1"
    sent = [header.split(": ", 1) for header in headers]
    assert ["Authorization", f"Basic {b64encode('me:päss:word'.encode()).decode()}"] in sent
    assert ["X-Probe", "yes"] in sent
    assert [value for name, value in sent if name.lower() == "host"] == ["web.example"]
    assert [value for name, value in sent if name.lower() == "user-agent"] == ["mine"]


async def test_a_connection_is_kept_for_the_next_question(prober: HttpProber, run: Run) -> None:
    connections = 0
    handler = answering(OK)

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await handler(reader, writer)

    async with serving(counted) as port:
        for _ in range(5):
            assert (await ask(prober, run, f"http://127.0.0.1:{port}/", expect_string="ok")).passed
    assert connections == 1


async def test_the_body_must_have_the_text_wherever_it_is_cut(prober: HttpProber, run: Run) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in (b"HTTP/1.0 200 OK\r\n\r\nall is w", b"ell"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)

    async with serving(cut) as port:
        url = f"http://127.0.0.1:{port}/"
        assert (await ask(prober, run, url, expect_string="is well")).passed
        missing = await ask(prober, run, url, expect_string="is bad")
    assert missing.detail == f"{url}: the answer does not contain 'is bad'"


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (silent, "no whole answer within 0.6 s"),
        (resetting, "Connection reset by peer"),
        (answering(b"SSH-2.0-OpenSSH_9\r\n\r\n"), "the answer is not HTTP"),
        (forever(b"", b"HTTP/1.1 200 OK\r\n", pause=0.05), "the answer is not HTTP"),
        (forever(b"HTTP/1.1 200 OK\r\n", b"X-More: again\r\n", pause=0.05), "no whole answer within 0.6 s"),
        (forever(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 65536), "the answer is not HTTP"),
        (forever(b"HTTP/1.1 200 OK\r\n\r\n", b"drip", pause=0.05), "no whole answer within 0.6 s"),
        (
            forever(b"HTTP/1.1 200 OK\r\n\r\n", b"flood" * 13000),
            "the answer does not contain 'never there'",
        ),
        (
            answering(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nConnection: close\r\n\r\nshort"),
            "no whole answer within 0.6 s",
        ),
    ],
    ids=["hangs", "resets", "ssh", "statuses", "heads", "head", "drips", "floods", "short"],
)
async def test_an_answer_that_is_none_fails_in_time_with_its_reason(
    prober: HttpProber, run: Run, handler: Any, reason: str
) -> None:
    async with serving(handler) as port:
        url = f"http://127.0.0.1:{port}/"
        result = await ask(prober, run, url, expect_string="never there", patient="0.6 s" not in reason)
    assert result == ProbeResult(passed=False, detail=f"{url}: {reason}")


async def test_a_flood_of_headers_ends_in_time(prober: HttpProber, run: Run) -> None:
    async with serving(forever(b"HTTP/1.1 200 OK\r\n", b"X-More: again\r\n" * 4000)) as port:
        assert not (await ask(prober, run, f"http://127.0.0.1:{port}/", patient=False)).passed


async def test_a_status_is_enough_for_a_body_that_never_ends(prober: HttpProber, run: Run) -> None:
    async with serving(forever(b"HTTP/1.1 200 OK\r\n\r\n", b"drip", pause=0.05)) as port:
        assert (await ask(prober, run, f"http://127.0.0.1:{port}/")).passed
        assert (await ask(prober, run, f"http://127.0.0.1:{port}/", expect_string="pdri")).passed


async def test_nobody_who_listens_and_nobody_who_accepts_are_told_apart(prober: HttpProber, run: Run) -> None:
    refused = await ask(prober, run, f"http://127.0.0.1:{free_port()}/")
    assert refused.detail.endswith(": Connection refused")
    async with full_backlog() as port:
        ignored = await ask(prober, run, f"http://127.0.0.1:{port}/", patient=False)
    assert ignored.detail.endswith(": no connection within 0.3 s")


async def test_a_name_that_does_not_exist_is_told(prober: HttpProber, run: Run) -> None:
    result = await ask(prober, run, "http://no-such-name.invalid/", connect_timeout=Duration(1.5))
    assert result.detail.startswith("http://no-such-name.invalid/: ")
    assert not result.passed
    assert result.counts


async def test_a_certificate_is_checked_unless_told_otherwise(
    prober: HttpProber, run: Run, certificate: ssl.SSLContext
) -> None:
    async with serving(answering(OK), tls=certificate) as port:
        url = f"https://127.0.0.1:{port}/"
        refused = await ask(prober, run, url)
        assert refused.detail == f"{url}: its certificate is not accepted: self-signed certificate"
        assert (await ask(prober, run, url, tls_skip_verify=True)).passed
        assert not (await ask(prober, run, url)).passed  # the connection made without a look is not used
        named = await ask(prober, run, url, http_host="web.example:443")
        assert named.detail == f"{url}: its certificate is not accepted: self-signed certificate"

    async def no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        await silent(reader, writer)

    async with serving(no_tls) as port:
        plain = await ask(prober, run, f"https://127.0.0.1:{port}/", tls_skip_verify=True)
        assert "no TLS connection" in plain.detail


async def test_a_certificate_must_be_for_the_name_that_is_asked_for(
    run: Run, certificate: ssl.SSLContext, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an authority that the machine trusts, HttpHost says for whom the certificate must be."""
    async with serving(answering(OK), tls=certificate) as port:
        pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
        (tmp_path / "trusted.pem").write_text(pem)
        trusting = ssl.create_default_context(cafile=tmp_path / "trusted.pem")
        monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
        prober = HttpProber()
        try:
            url = f"https://127.0.0.1:{port}/"
            assert (await ask(prober, run, url, http_host="web.example")).passed
            other = await ask(prober, run, url)
        finally:
            await prober.close()
    assert "IP address mismatch" in other.detail


@pytest.mark.parametrize(
    "url", ["http://me:secret@127.0.0.1:{port}/x?token=secret", "ftp://me:secret@h/", "http://me:secret@[::1"]
)
async def test_secrets_never_stand_in_a_reason(prober: HttpProber, run: Run, url: str) -> None:
    headers = {"Authorization": "Bearer secret\r\nX: y"}
    for fields in ({}, {"headers": headers}, {"username": "me", "password": "secret"}):
        result = await ask(prober, run, url.format(port=free_port()), **fields)
        assert not result.passed
        assert "secret" not in result.detail


async def test_a_machine_without_file_descriptors_says_nothing_about_its_services(
    prober: HttpProber, run: Run
) -> None:
    async with serving(answering(OK)) as port:
        with no_descriptors_left():
            result = await ask(prober, run, f"http://127.0.0.1:{port}/")
        assert (result.passed, result.counts) == (False, False)
        assert result.detail.endswith("this machine cannot ask: Too many open files")
        assert (await ask(prober, run, f"http://127.0.0.1:{port}/")).passed


async def test_checks_that_hang_drip_and_flood_delay_no_other(prober: HttpProber, run: Run) -> None:
    async with (
        serving(silent) as hangs,
        serving(forever(b"HTTP/1.1 200 OK\r\n\r\n", b"drip", pause=0.05)) as drips,
        serving(forever(b"HTTP/1.1 200 OK\r\n\r\n", b"flood" * 13000)) as floods,
        serving(answering(OK)) as well,
        asyncio.TaskGroup() as group,
    ):

        async def bad(port: int) -> None:
            check = HttpCheck(url=f"http://127.0.0.1:{port}/", expect_string="never")
            while not enough.is_set():
                assert not (await prober.probe(check, run)).passed

        enough = asyncio.Event()
        for port in (hangs, drips, floods):
            for _ in range(20):
                group.create_task(bad(port))
        for _ in range(4):
            assert (await ask(prober, run, f"http://127.0.0.1:{well}/")).passed
            await asyncio.sleep(0)
        enough.set()
