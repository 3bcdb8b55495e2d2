"""Whether an image exists, asked of real registries: open, by password, by token, over TLS, and odd ones."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from orbitcontrol.docker.registry import Exists, Missing, Unknown, find_image
from support.certificates import Authority
from support.docker import Engine
from support.etcd import free_ports
from support.registry import PASSWORD, USER, Registry, started_registry
from support.tokens import REFRESH_TOKEN, TokenServer, started_token_server

pytestmark = pytest.mark.integration

NAME = "team/exists"


@pytest.fixture(scope="module")
def digest(dockerd: Engine, registry: Registry) -> str:
    """The digest of the one image, pushed by Docker, that all registries here have."""
    image = dockerd.image(f"{registry.host}/{NAME}:1")
    registry.log_in()
    dockerd.docker("--config", str(registry.docker_config), "push", image)
    pushed = dockerd.inspect(image, "{{index .RepoDigests 0}}").partition("@")[2]
    dockerd.remove_image(image)
    return pushed


@pytest.fixture(scope="module")
def open_registry(
    digest: str, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    with started_registry(tmp_path_factory.mktemp("open"), images=registry.images, auth={}) as opened:
        yield opened


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def answering(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """A server that answers everything so; its ``host:port``."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    server = TestServer(application)
    await server.start_server(ssl=tls)
    try:
        yield f"{server.host}:{server.port}"
    finally:
        await server.close()


def reason(answer: Exists | Missing | Unknown) -> str:
    assert isinstance(answer, Unknown), answer
    return answer.reason


async def test_an_open_registry_tells_what_it_has_and_what_it_has_not(
    open_registry: Registry, digest: str
) -> None:
    host = open_registry.host
    assert await find_image(f"{host}/{NAME}:1") == Exists(digest)
    assert await find_image(f"{host}/{NAME}@{digest}") == Exists(digest)
    for image, words in {
        f"{host}/{NAME}:2": f"{host} has no 2 of {NAME} (MANIFEST_UNKNOWN: manifest unknown)",
        f"{host}/{NAME}": f"{host} has no latest of {NAME} (MANIFEST_UNKNOWN: manifest unknown)",
        f"{host}/team/other:1": f"{host} has no 1 of team/other (MANIFEST_UNKNOWN: manifest unknown)",
    }.items():
        assert await find_image(image) == Missing(words)
    no_such_digest = f"sha256:{'0' * 64}"
    absent = await find_image(f"{host}/{NAME}@{no_such_digest}")
    assert isinstance(absent, Missing), absent
    assert no_such_digest in absent.reason


async def test_a_password_that_docker_login_left_is_said_and_a_wrong_one_proves_nothing(
    registry: Registry, digest: str
) -> None:
    image = f"{registry.host}/{NAME}:1"
    registry.log_in()
    assert await find_image(image, config_dir=registry.docker_config) == Exists(digest)
    missing = await find_image(f"{registry.host}/{NAME}:2", config_dir=registry.docker_config)
    assert isinstance(missing, Missing)
    registry.log_in(password="wrong")
    refused = reason(await find_image(image, config_dir=registry.docker_config))
    assert f"run docker login {registry.host}" in refused
    assert "wrong" not in refused.replace("the name is right", "")
    registry.configure({})
    refused = reason(await find_image(image, config_dir=registry.docker_config))
    assert refused == f"{registry.host} asks for a login: run docker login {registry.host}"
    registry.configure({"credsStore": "no-such-helper"})
    refused = reason(await find_image(image, config_dir=registry.docker_config))
    assert "docker-credential-no-such-helper" in refused


@pytest_asyncio.fixture
async def tokens(authority: Authority) -> AsyncIterator[TokenServer]:
    async with started_token_server(authority) as tokens:
        yield tokens


@pytest.fixture
def by_token(tokens: TokenServer, registry: Registry, digest: str, tmp_path: Path) -> Iterator[Registry]:
    with started_registry(tmp_path / "by-token", images=registry.images, auth=tokens.auth) as by_token:
        yield by_token


async def test_a_token_is_fetched_where_the_registry_says_and_the_registry_accepts_it(
    by_token: Registry, tokens: TokenServer, digest: str
) -> None:
    def ask(tag: str = "1") -> Awaitable[Exists | Missing | Unknown]:
        return find_image(f"{by_token.host}/{NAME}:{tag}", config_dir=by_token.docker_config)

    assert await ask() == Exists(digest)
    assert tokens.asked == [{"service": "registry of the tests", "scope": f"repository:{NAME}:pull"}]
    assert isinstance(await ask("2"), Missing)

    by_token.configure({"auths": {by_token.host: {"identitytoken": REFRESH_TOKEN}}})
    assert await ask() == Exists(digest)

    by_token.configure({"auths": {by_token.host: {"identitytoken": "of yesterday"}}})
    place = tokens.realm.split("/")[2]
    gives = f"{place}, which gives tokens for {by_token.host},"
    assert reason(await ask()).startswith(f"{gives} refuses the credentials: run docker login")
    by_token.log_in(password="wrong")
    assert reason(await ask()).startswith(f"{gives} refuses the credentials: run docker login")
    by_token.configure({})
    assert reason(await ask()).startswith(f"{by_token.host} lets nobody with these credentials see {NAME}")


async def test_a_token_that_the_registry_does_not_trust_proves_nothing(
    tokens: TokenServer, registry: Registry, digest: str, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    others = {"token": {**tokens.auth["token"], "rootcertbundle": Authority(tmp_path / "other").ca}}
    with started_registry(tmp_path / "strict", images=registry.images, auth=others) as strict:
        answer = await find_image(f"{strict.host}/{NAME}:1", config_dir=strict.docker_config)
    assert "lets nobody with these credentials see" in reason(answer)


async def test_certificates_are_looked_at_unless_the_engine_would_not(
    authority: Authority,
    registry: Registry,
    digest: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority.sign("registry", names="IP:127.0.0.1")
    tls = {"certificate": authority.cert("registry"), "key": authority.key("registry")}
    trusted, other = tmp_path / "certs.d", tmp_path / "other"
    other.mkdir()
    with started_registry(tmp_path / "tls", images=registry.images, auth={}, tls=tls) as server:
        image = f"{server.host}/{NAME}:1"

        async def ask(authorities: Path, insecure: tuple[str, ...] = ()) -> Exists | Missing | Unknown:
            return await find_image(image, certificates=authorities, insecure=insecure)

        refused = reason(await ask(trusted))
        assert refused.startswith(
            f"{server.host}: its certificate is not accepted (unable to get local issuer"
        )
        assert await ask(trusted, ("127.0.0.0/8",)) == Exists(digest)
        with monkeypatch.context() as environment:
            environment.setenv("SSL_CERT_FILE", authority.ca)
            assert await ask(trusted) == Exists(digest)
        place = trusted / server.host
        place.mkdir(parents=True)
        shutil.copy(Authority(other).ca, place / "ca.crt")
        assert "its certificate is not accepted" in reason(await ask(trusted))
        shutil.copy(authority.ca, place / "second.crt")
        assert await ask(trusted) == Exists(digest)
        (place / "third.crt").write_text("no certificate")
        assert reason(await ask(trusted)).startswith(f"{place / 'third.crt'}: no certificate can be read")


async def test_a_registry_that_wants_a_certificate_is_shown_the_one_of_this_machine(
    authority: Authority, registry: Registry, digest: str, tmp_path: Path
) -> None:
    for name in ("registry", "client"):
        authority.sign(name, names="IP:127.0.0.1")
    tls = {"certificate": authority.cert("registry"), "key": authority.key("registry")}
    clients = {"clientcas": [authority.ca]}
    with started_registry(tmp_path / "tls", images=registry.images, auth={}, tls=tls | clients) as server:
        place = tmp_path / "certs.d" / server.host
        place.mkdir(parents=True)
        shutil.copy(authority.ca, place / "ca.crt")
        image = f"{server.host}/{NAME}:1"
        reason(await find_image(image, certificates=place.parent, insecure=()))
        shutil.copy(authority.cert("client"), place / "client.cert")
        refused = reason(await find_image(image, certificates=place.parent, insecure=()))
        assert refused.startswith(f"{place / 'client.cert'}: not usable with its key")
        shutil.copy(authority.key("client"), place / "client.key")
        assert await find_image(image, certificates=place.parent, insecure=()) == Exists(digest)


async def test_http_is_spoken_only_where_the_engine_would(open_registry: Registry, digest: str) -> None:
    image = f"{open_registry.host}/{NAME}:1"
    assert await find_image(image, insecure=(open_registry.host,)) == Exists(digest)
    assert reason(await find_image(image, insecure=())).startswith(f"{open_registry.host}: no TLS connection")


async def test_what_refuses_hangs_or_is_no_registry_proves_nothing(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    nobody = f"127.0.0.1:{port}"
    assert reason(await find_image(f"{nobody}/web:1")) == f"{nobody}: Connection refused"
    assert "name is not known" in reason(await find_image("no-such-host.invalid:5000/web:1"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        said = reason(await find_image(f"{host}/web:1", deadline=0.3))
    assert said == f"{host} did not answer within 0.3 s"

    async def no_registry(request: web.Request) -> web.Response:
        return web.Response(status=404, text="<html>nothing here</html>")

    async def in_trouble(request: web.Request) -> web.Response:
        errors = {"errors": [{"code": "TOOMANYREQUESTS", "message": "come back later"}]}
        return web.json_response(errors, status=429)

    async def of_another_kind(request: web.Request) -> web.Response:
        return web.Response(status=401, headers={"WWW-Authenticate": "Negotiate"})

    for answer, words in (
        (no_registry, "answers 404, but not as a registry does"),
        (in_trouble, "answered 429 about web (TOOMANYREQUESTS: come back later)"),
        (of_another_kind, "asks for a login of another kind"),
    ):
        async with answering(answer) as host:
            assert words in reason(await find_image(f"{host}/web:1", config_dir=tmp_path))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirection_and_a_registry_without_head_are_followed_by_get(
    open_registry: Registry, digest: str, status: int
) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.method == "HEAD":
            return web.Response(status=405)
        location = f"http://{open_registry.host}{request.path_qs}"
        return web.Response(status=status, headers={"Location": location})

    async with answering(answer) as host:
        assert await find_image(f"{host}/{NAME}:1") == Exists(digest)
        assert isinstance(await find_image(f"{host}/{NAME}:2"), Missing)


async def test_passwords_do_not_go_where_a_redirection_or_a_realm_without_tls_leads(tmp_path: Path) -> None:
    seen: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        challenge = f'Bearer realm="http://{request.host}/token",service="s"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async with answering(elsewhere) as other:

        async def first(request: web.Request) -> web.Response:
            if "Authorization" not in request.headers:
                return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="here"'})
            return web.Response(status=307, headers={"Location": f"http://{other}{request.path}"})

        async def of_tokens(request: web.Request) -> web.Response:
            challenge = f'Bearer realm="http://{other}/token",service="s"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})

        async with answering(first) as host:
            log_in(tmp_path, host)
            reason(await find_image(f"{host}/web:1", config_dir=tmp_path))
        assert seen == [""]

        async def at_once(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": f"http://{other}{request.path}"})

        async with answering(at_once) as host:
            log_in(tmp_path, host)
            reason(await find_image(f"{host}/web:1", config_dir=tmp_path))
        assert set(seen) == {""}
        async with answering(of_tokens) as host:
            log_in(tmp_path, host)
            answer = await find_image(f"{host}/web:1", config_dir=tmp_path, insecure=(host,))
        assert f"asks for tokens from {other} over HTTP, without TLS" in reason(answer)
        assert set(seen) == {""}


async def test_a_registry_that_redirects_for_ever_or_to_no_tls_proves_nothing(
    authority: Authority, open_registry: Registry
) -> None:
    async def around(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": request.path})

    async with answering(around) as host:
        assert "from place to place" in reason(await find_image(f"{host}/{NAME}:1"))

    async def away(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"http://{open_registry.host}{request.path}"})

    authority.sign("front", names="IP:127.0.0.1")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(authority.cert("front"), authority.key("front"))
    async with answering(away, tls) as host:
        answer = await find_image(f"{host}/{NAME}:1")
    assert reason(answer) == f"{host} sends the question on over HTTP, without TLS: not believed"


def log_in(directory: Path, host: str) -> None:
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (directory / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
