"""Who may talk to etcd: certificates on both sides, users with passwords, tokens that end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from orbitcontrol.errors import StoreRefused, StoreUnreachable
from orbitcontrol.model.stored import Delete, Put, Range
from orbitcontrol.ports import Store
from orbitcontrol.store import etcd_watch
from orbitcontrol.store.etcd import EtcdStore
from orbitcontrol.store.open import open_store
from orbitcontrol.store.settings import EtcdSettings
from support.certificates import Authority
from support.etcd import EtcdServer

pytestmark = pytest.mark.integration

WEB = Range.prefix("/web/")


# --- certificates --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"))


def start_encrypted(directory: Path, authority: Authority, *, certificate: str) -> EtcdServer:
    """An etcd that lets in whoever has a certificate of the authority."""
    server = EtcdServer(
        directory / certificate,
        scheme="https",
        arguments=(
            *("--cert-file", authority.cert(certificate), "--key-file", authority.key(certificate)),
            *("--trusted-ca-file", authority.ca, "--client-cert-auth"),
        ),
    )
    server.start()
    return server


@pytest.fixture(scope="module")
def by_address(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """Its certificate is for its IP address."""
    authority.sign("by-address", names="IP:127.0.0.1")
    server = start_encrypted(tmp_path_factory.mktemp("etcd"), authority, certificate="by-address")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def by_name(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """Its certificate is for its host name alone."""
    authority.sign("by-name", names="DNS:localhost")
    server = start_encrypted(tmp_path_factory.mktemp("etcd"), authority, certificate="by-name")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def expired(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """Its certificate was for its IP address, until yesterday."""
    authority.sign("expired", names="IP:127.0.0.1", days=-1)
    server = start_encrypted(tmp_path_factory.mktemp("etcd"), authority, certificate="expired")
    yield server
    server.stop()


def client(*endpoints: str, authority: Authority, ca: str | None = None, name: str = "client") -> Store:
    """A store whose client certificate is signed by ``authority``."""
    authority.sign(name, names=f"DNS:{name}", days=-1 if name == "expired-client" else 10)
    return open_store(
        f"etcd://{','.join(endpoints)}",
        ca=ca or authority.ca,
        cert=authority.cert(name),
        key=authority.key(name),
    )


def local(server: EtcdServer) -> str:
    """The server's endpoint by host name."""
    return f"localhost:{server.endpoint.rpartition(':')[2]}"


async def use(store: Store) -> None:
    """Everything that has a connection of its own."""
    revision = await store.commit([], [Put("/web/a", b"1")])
    lease = await store.grant(5)
    assert await store.keep_alive(lease) > 0
    async with store.watch(WEB, after=revision - 1) as changes, asyncio.timeout(10):
        assert (await anext(changes)).revision == revision
    await store.close()


async def test_with_certificates_on_both_sides_everything_works(
    by_address: EtcdServer, authority: Authority
) -> None:
    await use(client(by_address.endpoint, authority=authority))


async def test_each_member_is_known_by_the_name_in_its_own_certificate(
    by_address: EtcdServer, by_name: EtcdServer, authority: Authority
) -> None:
    for endpoints in ((by_address.endpoint, local(by_name)), (local(by_name), by_address.endpoint)):
        for gone in (by_address, by_name):
            gone.stop()
            await use(client(*endpoints, authority=authority))
            gone.start()


async def _refusal(store: Store) -> str:
    with pytest.raises(StoreUnreachable) as refused:
        await store.get("/web/a")
    await store.close()
    return str(refused.value)


async def test_a_server_that_is_not_whom_it_claims_to_be_is_named_with_the_reason(
    by_address: EtcdServer,
    by_name: EtcdServer,
    expired: EtcdServer,
    authority: Authority,
    stranger: Authority,
) -> None:
    endpoint = by_address.endpoint
    unknown, misnamed, misaddressed, outdated, both = await asyncio.gather(
        _refusal(client(endpoint, authority=authority, ca=stranger.ca)),
        _refusal(client(local(by_address), authority=authority)),
        _refusal(client(by_name.endpoint, authority=authority)),
        _refusal(client(expired.endpoint, authority=authority)),
        _refusal(client(endpoint, expired.endpoint, authority=authority, ca=stranger.ca)),
    )
    assert f"{endpoint}: its certificate is not accepted: unable to get local issuer" in unknown
    assert "Hostname mismatch" in misnamed
    assert "IP address mismatch" in misaddressed
    assert "certificate has expired" in outdated
    assert f"{endpoint}: its" in both
    assert f"{expired.endpoint}: its" in both


async def test_a_client_that_the_server_does_not_accept_is_told_which_certificate_is_meant(
    by_address: EtcdServer, authority: Authority, stranger: Authority
) -> None:
    outdated, foreign, nobody = await asyncio.gather(
        _refusal(client(by_address.endpoint, authority=authority, name="expired-client")),
        _refusal(client(by_address.endpoint, authority=stranger, ca=authority.ca)),
        _refusal(open_store(f"etcd://{by_address.endpoint}", ca=authority.ca)),
    )
    assert f"refuses the client certificate {authority.cert('expired-client')}" in outdated
    assert f"refuses the client certificate {stranger.cert('client')}" in foreign
    assert "without a certificate" in nobody


async def test_certificate_files_that_do_not_fit_are_told(
    by_address: EtcdServer, authority: Authority, stranger: Authority
) -> None:
    client(by_address.endpoint, authority=authority)
    client(by_address.endpoint, authority=stranger)
    mixed = open_store(
        f"etcd://{by_address.endpoint}",
        ca=authority.ca,
        cert=authority.cert("client"),
        key=stranger.key("client"),
    )
    assert "key values mismatch" in await _refusal(mixed)


async def test_speaking_plainly_to_tls_and_the_other_way_round_is_explained(
    by_address: EtcdServer, etcd_server: EtcdServer, authority: Authority
) -> None:
    assert "want TLS" in await _refusal(open_store(f"etcd://{by_address.endpoint}"))
    assert "does the server speak TLS" in await _refusal(client(etcd_server.endpoint, authority=authority))


# --- users ---------------------------------------------------------------------------------------


@pytest.fixture
def etcd_with_users(own_etcd: EtcdServer) -> EtcdServer:
    """Root, and a user who may read and write below /web/ only; tokens last a second."""
    own_etcd.stop()
    own_etcd.arguments = ("--auth-token-ttl", "1")
    own_etcd.start()
    own_etcd.etcdctl("user", "add", "root:secret")
    own_etcd.etcdctl("role", "add", "web")
    own_etcd.etcdctl("role", "grant-permission", "--prefix=true", "web", "readwrite", "/web/")
    own_etcd.etcdctl("user", "add", "web:weak")
    own_etcd.etcdctl("user", "grant-role", "web", "web")
    own_etcd.etcdctl("auth", "enable")
    return own_etcd


async def test_a_user_logs_in_and_logs_in_again_when_the_token_has_expired(
    etcd_with_users: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_watch, "_STAGES", (0.2, 10.0, 10.0))  # probes with the expired token, too
    store = open_store(f"etcd://{etcd_with_users.endpoint}", user="web", password="weak")
    start = await store.commit([], [Put("/web/a", b"1")])
    async with store.watch(WEB, after=start) as changes:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(
                3
            ):  # the token's life and the interval in which etcd looks for dead ones
                await anext(changes)
        revision = await store.commit([], [Put("/web/a", b"2")])
        async with asyncio.timeout(5):
            assert (await anext(changes)).revision == revision
        lease = await store.grant(5)
        await asyncio.sleep(3)
        assert await store.keep_alive(lease) > 0
    await asyncio.sleep(3)
    async with store.watch(WEB, after=start) as changes, asyncio.timeout(5):
        assert (await anext(changes)).revision == revision
    await store.close()


async def test_what_a_user_may_not_do_is_refused(etcd_with_users: EtcdServer) -> None:
    store = open_store(f"etcd://{etcd_with_users.endpoint}", user="web", password="weak")
    for attempt in (
        store.get("/secret"),
        store.commit([], [Put("/secret", b"")]),
        store.commit([], [Delete(Range.prefix("/s"))]),
    ):
        with pytest.raises(StoreRefused, match="permission"):
            await attempt
    with pytest.raises(StoreRefused, match="permission"):
        async with store.watch(Range.prefix("/secret/"), after=1):
            pass
    await store.close()


async def test_a_wrong_password_and_a_missing_user_are_refused(etcd_with_users: EtcdServer) -> None:
    wrong = EtcdStore(EtcdSettings(endpoints=(etcd_with_users.endpoint,), user="web", password="wrong"))
    with pytest.raises(StoreRefused, match="user ID or password"):
        await wrong.get("/web/a")
    await wrong.close()
    nobody = open_store(f"etcd://{etcd_with_users.endpoint}")
    with pytest.raises(StoreRefused, match="user"):
        await nobody.get("/web/a")
    with pytest.raises(StoreRefused, match="user"):
        async with nobody.watch(WEB, after=1):
            pass
    await nobody.close()


async def test_a_user_logs_in_again_at_a_server_that_has_forgotten_all_tokens(
    etcd_with_users: EtcdServer,
) -> None:
    etcd_with_users.stop()
    etcd_with_users.arguments = ("--auth-token", "simple")
    etcd_with_users.start()
    store = open_store(f"etcd://{etcd_with_users.endpoint}", user="web", password="weak")
    lease = await store.grant(60)

    async def commit() -> int:
        return await store.commit([], [Put("/web/a", b"", lease)])

    async def watch() -> None:
        async with store.watch(WEB, after=start - 1) as changes, asyncio.timeout(10):
            await anext(changes)

    start = await commit()
    for first_call in (commit, watch, lambda: store.read(WEB), lambda: store.keep_alive(lease)):
        etcd_with_users.stop()
        etcd_with_users.start()
        await first_call()
    await store.close()


async def test_a_user_who_was_deleted_is_refused(etcd_with_users: EtcdServer) -> None:
    store = open_store(f"etcd://{etcd_with_users.endpoint}", user="web", password="weak")
    await store.read(WEB)
    etcd_with_users.etcdctl("--user", "root:secret", "user", "delete", "web")
    with pytest.raises(StoreRefused, match="user ID or password"):
        await store.read(WEB)
    await store.close()
