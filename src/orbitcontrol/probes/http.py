"""The http check: one request, judged by the beginning of its status and by its body.

Connections are kept between questions to the same place. Redirects are not followed, the
environment's proxies are not used, and no more of a body is read than a check can sensibly need.
"""

from __future__ import annotations

import asyncio

import aiohttp

from orbitcontrol.model.runs import ProbeResult, Run
from orbitcontrol.model.service import Check, HttpCheck

_LONGEST_BODY = 1 << 20


class HttpProber:
    """Asks over HTTP and HTTPS. One for all checks of a daemon."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def probe(self, check: Check, run: Run) -> ProbeResult:
        """Asks once."""
        assert isinstance(check, HttpCheck)  # noqa: S101 -- the table of probers says so
        timeout = aiohttp.ClientTimeout(
            total=check.connect_timeout + check.response_timeout, connect=check.connect_timeout
        )
        try:
            async with self._client().request(
                check.method,
                check.url,
                headers=_headers(check),
                auth=_auth(check),
                ssl=not check.tls_skip_verify,
                allow_redirects=False,
                timeout=timeout,
            ) as answer:
                return await _judged(check, answer)
        except TimeoutError:
            return ProbeResult(passed=False, detail=f"{check.url}: no answer in time")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return ProbeResult(passed=False, detail=f"{check.url}: {str(error) or type(error).__name__}")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


def _headers(check: HttpCheck) -> dict[str, str]:
    host = {} if check.http_host is None else {"Host": check.http_host}
    return {"User-Agent": "orbitctl-check", **check.headers, **host}


def _auth(check: HttpCheck) -> aiohttp.BasicAuth | None:
    if check.username is None:
        return None
    return aiohttp.BasicAuth(check.username, check.password or "", encoding="utf-8")


async def _judged(check: HttpCheck, answer: aiohttp.ClientResponse) -> ProbeResult:
    expected = str(check.expect_http_status)
    if not str(answer.status).startswith(expected):
        return ProbeResult(
            passed=False, detail=f"{check.url}: status {answer.status}, expected {expected}{_rest(expected)}"
        )
    if check.expect_string is None:
        return ProbeResult(passed=True, detail=f"status {answer.status}")
    if check.expect_string.encode() not in await _body(answer):
        return ProbeResult(
            passed=False, detail=f"{check.url}: the answer does not contain {check.expect_string!r}"
        )
    return ProbeResult(passed=True, detail=f"status {answer.status}")


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    """The body, up to what a check can sensibly need."""
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) >= _LONGEST_BODY:
            break
    return bytes(body)


def _rest(expected: str) -> str:
    return "x" * (3 - len(expected))
