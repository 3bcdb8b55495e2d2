"""A server that gives tokens for a registry of ``auth: token``, to those who say the right password.

Tokens are JSON Web Tokens signed with ES256; the registry checks them against the authority.
Format: https://distribution.github.io/distribution/spec/auth/jwt/
"""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from support.certificates import Authority
from support.registry import PASSWORD, USER

SERVICE, ISSUER = "registry of the tests", "tokens of the tests"
REFRESH_TOKEN = "left by docker login"


class TokenServer:
    """Gives tokens at ``realm``; ``asked`` are the queries that it was sent."""

    def __init__(self, authority: Authority) -> None:
        authority.sign("tokens", names="DNS:tokens")
        self._authority = authority
        self.realm = ""
        self.asked: list[dict[str, str]] = []

    @property
    def auth(self) -> dict[str, Any]:
        """What the registry must be told."""
        return {
            "token": {
                "realm": self.realm,
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": self._authority.ca,
            }
        }

    async def by_password(self, request: web.Request) -> web.Response:
        """Anonymous people get a token that allows nothing."""
        self.asked.append(dict(request.query))
        header = request.headers.get("Authorization")
        if header is None:
            return web.json_response({"token": self._token(request.query["service"], access=[])})
        if base64.b64decode(header.removeprefix("Basic ")).decode() != f"{USER}:{PASSWORD}":
            return web.json_response({"errors": [{"code": "UNAUTHORIZED"}]}, status=401)
        access = _access(request.query["scope"])
        return web.json_response({"token": self._token(request.query["service"], access=access)})

    async def by_refresh_token(self, request: web.Request) -> web.Response:
        form = await request.post()
        if (form["grant_type"], form["refresh_token"]) != ("refresh_token", REFRESH_TOKEN):
            return web.json_response({"errors": [{"code": "UNAUTHORIZED"}]}, status=401)
        token = self._token(str(form["service"]), access=_access(str(form["scope"])))
        return web.json_response({"access_token": token})

    def _token(self, service: str, *, access: list[dict[str, Any]]) -> str:
        now = int(time.time())
        pem = Path(self._authority.cert("tokens")).read_text().splitlines()
        header = {"typ": "JWT", "alg": "ES256", "x5c": ["".join(pem[1:-1])]}
        times = {"iat": now, "nbf": now - 10, "exp": now + 60}
        claims = {"iss": ISSUER, "aud": service, "sub": USER, "jti": secrets.token_hex(8), "access": access}
        text = ".".join(_url_safe(json.dumps(part).encode()) for part in (header, claims | times))
        return f"{text}.{_url_safe(self._signature(text))}"

    def _signature(self, text: str) -> bytes:
        command = ["openssl", "dgst", "-sha256", "-sign", self._authority.key("tokens")]
        signed = subprocess.run(command, input=text.encode(), check=True, capture_output=True, timeout=60)
        return _two_numbers(signed.stdout)


def _access(scope: str) -> list[dict[str, Any]]:
    kind, name, actions = scope.split(":")
    return [{"type": kind, "name": name, "actions": actions.split(",")}]


def _two_numbers(der: bytes) -> bytes:
    """The two numbers of an ECDSA signature, 32 bytes each, out of their DER sequence (RFC 7518, 3.4)."""
    numbers, at = b"", 2
    for _ in range(2):
        length = der[at + 1]
        number = int.from_bytes(der[at + 2 : at + 2 + length], "big")
        numbers += number.to_bytes(32, "big")
        at += 2 + length
    return numbers


def _url_safe(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


@asynccontextmanager
async def started_token_server(authority: Authority) -> AsyncIterator[TokenServer]:
    """A token server on a free port, over HTTP."""
    tokens = TokenServer(authority)
    application = web.Application()
    application.router.add_get("/token", tokens.by_password)
    application.router.add_post("/token", tokens.by_refresh_token)
    async with TestServer(application) as server:
        tokens.realm = str(server.make_url("/token"))
        yield tokens
