"""Whether a registry has an image, asked as the Docker engine would before it pulls.

The same credentials (``credentials.py``), the same authorities (the system's, and those of
``/etc/docker/certs.d/HOST``), and plain HTTP only where the engine would use it. A registry that was
not asked successfully has said nothing: only its own "not found" means that the image is missing.

Credentials go to the registry and to the token server that it names, never to where a redirect leads,
and never over plain HTTP to a place that is not allowed it.
"""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import Collection
from pathlib import Path

import aiohttp
from aiohttp import hdrs
from msgspec import Struct
from multidict import CIMultiDictProxy
from yarl import URL

from orbitcontrol.codec.imageref import tag_of
from orbitcontrol.codec.registry import (
    LOOPBACK,
    MANIFEST_TYPES,
    Challenge,
    challenges,
    host_of,
    is_insecure,
    manifest_path,
    repository_of,
    said,
    token_of,
)
from orbitcontrol.docker.credentials import credentials_for
from orbitcontrol.errors import DockerError
from orbitcontrol.names import Names, Resolver
from orbitcontrol.systemwords import plain

DEADLINE = 10.0
"""Seconds for all questions about one image together."""

CERTIFICATES = Path("/etc/docker/certs.d")
"""A directory for each ``host[:port]``: authorities (``*.crt``), own certificates (``*.cert``, ``*.key``)."""

_LONGEST_BODY = 1 << 16
_MOST_REDIRECTS = 5


class Exists(Struct, frozen=True):
    """The registry has it; ``digest`` is "" where it does not say which."""

    digest: str


class Missing(Struct, frozen=True):
    """The registry answered that it does not have it."""

    reason: str


class Unknown(Struct, frozen=True):
    """The registry could not be asked, or would not say."""

    reason: str


class _Reply(Struct, frozen=True, kw_only=True):
    """An answer; ``place`` is who gave it, after redirects."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    place: URL


async def find_image(
    image: str,
    *,
    deadline: float = DEADLINE,
    insecure: Collection[str] = LOOPBACK,
    certificates: Path = CERTIFICATES,
    config_dir: Path | None = None,
) -> Exists | Missing | Unknown:
    """Asks the image's registry, within ``deadline`` seconds in all; failures are answers.

    ``insecure`` names registries and networks as the engine's ``insecure-registries`` do: there
    certificates are not looked at, and HTTP is spoken to who does not speak TLS.
    """
    host = host_of(image)
    try:
        tls = _trust(certificates / host)
        async with (
            asyncio.timeout(deadline),
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=Resolver(Names())),
                headers={hdrs.USER_AGENT: "orbitctl"},
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
            ) as session,
        ):
            inquiry = _Inquiry(image, session, tls, insecure, config_dir)
            return await inquiry.answer()
    except TimeoutError:
        return Unknown(f"{host} did not answer within {deadline:g} s")
    except DockerError as error:
        return Unknown(str(error))
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Unknown(f"{host}: {_words(error)}")


class _Inquiry:
    """The questions about one image."""

    def __init__(
        self,
        image: str,
        session: aiohttp.ClientSession,
        tls: ssl.SSLContext,
        insecure: Collection[str],
        config_dir: Path | None,
    ) -> None:
        self._image = image
        self._host = host_of(image)
        self._session = session
        self._tls = tls
        self._insecure = insecure
        self._config_dir = config_dir

    async def answer(self) -> Exists | Missing | Unknown:
        """By HTTPS; where that is allowed and HTTPS is not understood, by HTTP."""
        secure = URL(f"https://{self._host}{manifest_path(self._image)}", encoded=True)
        try:
            return await self._ask(secure)
        except aiohttp.ClientConnectionError:
            if not self._may_be_plain(secure):
                raise
        return await self._ask(URL(f"http://{self._host}{manifest_path(self._image)}", encoded=True))

    async def _ask(self, manifest: URL) -> Exists | Missing | Unknown:
        reply = await self._manifest(manifest, {})
        if reply.status == 401 and reply.place.origin() == manifest.origin():
            reply = await self._manifest(manifest, await self._authorization(reply))
        words = said(reply.body)
        because = f" ({words})" if words else ""
        repository, reference = repository_of(self._image), tag_of(self._image)
        if reply.status == 200:
            digest = reply.headers.get("Docker-Content-Digest", "")
            return Exists(digest or (reference if ":" in reference else ""))
        if reply.status == 404 and (words or "Docker-Distribution-Api-Version" in reply.headers):
            return Missing(f"{self._host} has no {reference} of {repository}{because}")
        if reply.status == 404:
            return Unknown(f"{self._host} answers 404, but not as a registry does: is that its address?")
        if reply.status in {401, 403}:
            return Unknown(
                f"{self._host} lets nobody with these credentials see {repository}{because}: "
                f"run docker login {self._host}, or look whether the name is right"
            )
        return Unknown(f"{self._host} answered {reply.status} about {repository}{because}")

    async def _manifest(self, url: URL, authorization: dict[str, str]) -> _Reply:
        """HEAD spares the registry a download; whatever it does not settle is asked again by GET.

        Some registries answer HEAD with 405, and only a GET has a body that says why.
        """
        headers = {hdrs.ACCEPT: ", ".join(MANIFEST_TYPES), **authorization}
        reply = await self._request(hdrs.METH_HEAD, url, headers, redirects=True)
        if reply.status in {200, 401}:
            return reply
        return await self._request(hdrs.METH_GET, url, headers, redirects=True)

    async def _request(
        self,
        method: str,
        url: URL,
        headers: dict[str, str],
        *,
        form: dict[str, str] | None = None,
        redirects: bool = False,
    ) -> _Reply:
        """One request. On a way to another place the library leaves ``Authorization`` out."""
        async with self._session.request(
            method,
            url,
            headers=headers,
            data=form,
            allow_redirects=redirects,
            ssl=False if self._may_be_plain(url) else self._tls,
            max_redirects=_MOST_REDIRECTS,
        ) as answer:
            way = [*(before.url for before in answer.history), answer.url]
            if url.scheme == "https" and any(place.scheme != "https" for place in way):
                raise DockerError(f"{self._host} sends the question on over HTTP, without TLS: not believed")
            body = bytearray()
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) >= _LONGEST_BODY:
                    break
            return _Reply(status=answer.status, headers=answer.headers, body=bytes(body), place=answer.url)

    def _may_be_plain(self, url: URL) -> bool:
        return is_insecure(url.authority, self._insecure)

    async def _authorization(self, reply: _Reply) -> dict[str, str]:
        """The header that the registry asks for, with the machine's credentials where it has some."""
        asked = {one.scheme: one for one in challenges(reply.headers.getall(hdrs.WWW_AUTHENTICATE, ()))}
        credentials = await credentials_for(self._image, config_dir=self._config_dir) or {}
        if "bearer" in asked:
            token = await self._token(asked["bearer"], credentials)
            return {hdrs.AUTHORIZATION: f"Bearer {token}"}
        if "basic" not in asked:
            raise DockerError(f"{self._host} asks for a login of another kind than passwords and tokens")
        if "username" not in credentials:
            raise DockerError(f"{self._host} asks for a login: run docker login {self._host}")
        return _basic(credentials)

    async def _token(self, challenge: Challenge, credentials: dict[str, str]) -> str:
        """A token for pulling: from the realm that the registry names, as whoever is logged in."""
        realm = URL(challenge.parameters.get("realm", ""))
        if not realm.host or realm.scheme not in {"http", "https"}:
            raise DockerError(f"{self._host} names no server that gives tokens")
        if realm.scheme == "http" and not self._may_be_plain(realm):
            raise DockerError(f"{self._host} asks for tokens from {realm.authority} over HTTP, without TLS")
        about = {
            "service": challenge.parameters.get("service", ""),
            "scope": challenge.parameters.get("scope") or f"repository:{repository_of(self._image)}:pull",
        }
        if "identitytoken" in credentials:
            secret = {"grant_type": "refresh_token", "refresh_token": credentials["identitytoken"]}
            form = {**secret, **about, "client_id": "orbitctl"}
            reply = await self._request(hdrs.METH_POST, realm, {}, form=form)
        else:
            headers = _basic(credentials) if "username" in credentials else {}
            reply = await self._request(hdrs.METH_GET, realm.extend_query(about), headers)
        if reply.status == 200 and (token := token_of(reply.body)):
            return token
        who = f"{realm.authority}, which gives tokens for {self._host},"
        if reply.status in {401, 403}:
            raise DockerError(f"{who} refuses the credentials: run docker login {self._host}")
        raise DockerError(f"{who} answered {reply.status} without a token")


def _basic(credentials: dict[str, str]) -> dict[str, str]:
    pair = f"{credentials['username']}:{credentials['password']}".encode()
    return {hdrs.AUTHORIZATION: f"Basic {b64encode(pair).decode()}"}


def _trust(directory: Path) -> ssl.SSLContext:
    """The system's authorities (``SSL_CERT_FILE`` names others) and what Docker was told of this registry."""
    context = ssl.create_default_context()
    for authority in sorted(directory.glob("*.crt")):
        try:
            context.load_verify_locations(authority)
        except OSError as error:
            raise DockerError(f"{authority}: no certificate can be read there: {_words(error)}") from error
    for certificate in sorted(directory.glob("*.cert")):
        try:
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        except OSError as error:
            raise DockerError(f"{certificate}: not usable with its key: {_words(error)}") from error
    return context


def _words(error: Exception) -> str:
    """What went wrong. The libraries' own words are not repeated: they may quote a token or a password."""
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError() as bad):
            words = f"its certificate is not accepted ({bad.verify_message}); if it is the right one, "
            words += f"put its authority into {CERTIFICATES}"
        case aiohttp.ClientConnectorSSLError(os_error=ssl.SSLError() as cause):
            words = f"no TLS connection ({cause.reason})"
        case aiohttp.ClientConnectorError(os_error=cause):
            words = plain(cause)
        case aiohttp.TooManyRedirects():
            words = "it sends the question from place to place"
        case aiohttp.ServerDisconnectedError():
            words = "the connection was closed without an answer"
        case OSError() if not isinstance(error, ssl.SSLError):
            words = plain(error)
        case _:
            words = f"the answer cannot be used ({type(error).__name__})"
    return words
