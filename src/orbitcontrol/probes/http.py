"""The http check: one request, judged by the beginning of its status and by its body.

Connections are kept between questions to the same place. Redirects are not followed, the
environment's proxies are not used, and no more of a body is read than a check can sensibly need.

A reason names the place without the user, password and query that its URL may carry.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from urllib.parse import urlsplit

import aiohttp

from orbitcontrol.model.runs import ProbeResult, Run
from orbitcontrol.model.service import Check, HttpCheck
from orbitcontrol.names import Names, Resolver
from orbitcontrol.probes.reasons import failed, failed_by_system

_LONGEST_BODY = 1 << 20

_WORDS = {
    aiohttp.InvalidURL: "this is no http or https URL",
    aiohttp.NonHttpUrlClientError: "this is no http or https URL",
    aiohttp.ServerDisconnectedError: "the connection was closed without an answer",
    aiohttp.ClientPayloadError: "the answer broke off",
    aiohttp.ClientResponseError: "the answer is not HTTP",
}

_Reason = str | OSError


class HttpProber:
    """Asks over HTTP and HTTPS. One for all checks of a daemon."""

    def __init__(self, names: Names | None = None) -> None:
        self._names = names or Names()
        self._session: aiohttp.ClientSession | None = None

    async def probe(self, check: Check, run: Run) -> ProbeResult:
        """Asks once."""
        assert isinstance(check, HttpCheck)  # noqa: S101 -- the table of probers says so
        total = check.connect_timeout + check.response_timeout
        try:
            async with self._client().request(
                check.method,
                check.url,
                headers=_headers(check),
                ssl=not check.tls_skip_verify,
                server_hostname=_tls_name(check),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=total, connect=check.connect_timeout),
            ) as answer:
                return await _judged(check, answer)
        except aiohttp.ConnectionTimeoutError:
            return failed(_place(check), f"no connection within {check.connect_timeout:g} s")
        except TimeoutError:
            return failed(_place(check), f"no whole answer within {total:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = _reason(error, check)
            if isinstance(reason, OSError):
                return failed_by_system(_place(check), reason)
            return failed(_place(check), reason)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=60, resolver=Resolver(self._names), use_dns_cache=False
                ),
                headers={"User-Agent": "orbitctl-check"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


def _headers(check: HttpCheck) -> dict[str, str]:
    ours = {}
    if check.http_host is not None:
        ours["Host"] = check.http_host
    if check.username is not None:
        pair = f"{check.username}:{check.password or ''}".encode()
        ours["Authorization"] = f"Basic {b64encode(pair).decode()}"
    replaced = {name.lower() for name in ours}
    return {name: value for name, value in check.headers.items() if name.lower() not in replaced} | ours


def _tls_name(check: HttpCheck) -> str | None:
    """The name that a certificate must be for: the one that is asked for, whatever the address is."""
    if check.http_host is None or not check.url.lower().startswith("https:"):
        return None
    return urlsplit(f"//{check.http_host}").hostname


async def _judged(check: HttpCheck, answer: aiohttp.ClientResponse) -> ProbeResult:
    expected = str(check.expect_http_status)
    if not str(answer.status).startswith(expected):
        return failed(_place(check), f"status {answer.status}, expected {expected.ljust(3, 'x')}")
    if check.expect_string is not None and not await _contains(answer, check.expect_string.encode()):
        return failed(_place(check), f"the answer does not contain {check.expect_string!r}")
    return ProbeResult(passed=True, detail=f"status {answer.status}")


async def _contains(answer: aiohttp.ClientResponse, wanted: bytes) -> bool:
    """Whether the body has the text, as far as it is read: until it is found, it ends, or is too long."""
    body = bytearray()
    async for piece in answer.content.iter_any():
        unseen = max(0, len(body) - len(wanted) + 1)
        body += piece
        if body.find(wanted, unseen) >= 0:
            return True
        if len(body) >= _LONGEST_BODY:
            return False
    return not wanted


def _place(check: HttpCheck) -> str:
    """The URL without what may be secret in it."""
    try:
        url = urlsplit(check.url)
    except ValueError:
        return "Url"
    if not url.scheme or not url.netloc:
        return "Url"
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


def _reason(error: Exception, check: HttpCheck) -> _Reason:
    """What went wrong, in words that quote nothing secret of the request."""
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=cause):
            return f"its certificate is not accepted: {getattr(cause, 'verify_message', cause)}"
        case aiohttp.ClientConnectorSSLError(os_error=cause):
            return f"no TLS connection: {getattr(cause, 'reason', None) or cause}"
        case aiohttp.ClientConnectorError(os_error=cause):
            return cause
    for kind, words in _WORDS.items():
        if isinstance(error, kind):
            return words
    if isinstance(error, OSError):
        return error
    words = str(error)
    return words if words and not any(secret in words for secret in _secrets(check)) else type(error).__name__


def _secrets(check: HttpCheck) -> list[str]:
    """What must not be repeated: the library may quote what it does not like."""
    user, at, _ = check.url.rpartition("@")
    _, mark, query = check.url.partition("?")
    found = [check.password, *check.headers.values(), user if at else None, query if mark else None]
    return [secret for secret in found if secret]
