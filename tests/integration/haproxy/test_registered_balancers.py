"""A load balancer is known in the store before it routes to a service, and as long as it may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from orbitcontrol.agent.proxy_store import BalancerStore
from orbitcontrol.codec.values import encode
from orbitcontrol.errors import StoreRefused
from orbitcontrol.model.rollouts import LoadBalancer
from orbitcontrol.model.stored import Changes, Compare, Operation, Put, Range
from support.haproxy import WebServer, eventually
from support.haproxy_acks import REQUEST, Waiting, half_sent
from support.haproxy_homes import DISTRIBUTION, EVERY_HAPROXY, on
from support.haproxy_servers import Three
from support.loops import Meddled

pytestmark = pytest.mark.integration

Servers = tuple[WebServer, WebServer]

API = """\
backend api
    {% for e in endpoints("api") -%}
    server {{ e.name }} {{ e.address }}
    {% endfor %}
"""


class Refusing:
    """Refuses registrations for these services, as a store that takes no writes."""

    def __init__(self, waiting: Waiting, *services: str) -> None:
        self.services = set(services)
        self.refused = asyncio.Event()
        self._at = waiting.at
        self._commit = waiting.at.store.commit
        waiting.at = BalancerStore(
            store=Meddled(waiting.at.store, commit=self.commit),
            keys=waiting.at.keys,
            address=waiting.at.address,
            check=waiting.at.check,
        )

    async def commit(self, compares: list[Compare], operations: list[Operation]) -> int:
        keys = {self._at.keys.load_balancer(service, self._at.address) for service in self.services}
        if any(isinstance(each, Put) and each.key in keys for each in operations):
            self.refused.set()
            raise StoreRefused("no space left")
        return await self._commit(compares, operations)


@asynccontextmanager
async def silent(range: Range, *, after: int) -> AsyncIterator[AsyncIterator[Changes]]:
    """A watch that tells of nothing."""

    async def nothing() -> AsyncIterator[Changes]:
        await asyncio.Event().wait()
        yield Changes(after, ())

    yield nothing()


@EVERY_HAPROXY
async def test_haproxy_gets_nothing_of_a_service_before_its_registration(
    waiting: Waiting, web_servers: Servers
) -> None:
    one, two = web_servers
    store = Refusing(waiting, "api")
    await waiting.begin(one)
    assert await waiting.registrations() == {
        "web": LoadBalancer(check="10.0.0.1:1500", binds=())  # it listens on loopback alone
    }
    await waiting.publish(two, service="api")
    generation = waiting.import_template(waiting.home.template + API)
    said = await waiting.problem("registration", "services api")
    assert "get no servers before this load balancer is registered for them: no space left" in said
    await waiting.publish(two)  # what is registered goes on as before
    await waiting.routes_to(one.address, two.address)
    assert "backend api" not in waiting.home.config.read_text()
    store.services.clear()
    await waiting.judged(generation, accepted=True)
    assert f"server api-{two.address}" in waiting.home.config.read_text()
    await waiting.registered("api", "web")


async def test_where_haproxy_listens_is_told_and_corrected(waiting: Waiting, web_servers: Servers) -> None:
    waiting.home.template = waiting.home.template.replace("bind 127.0.0.1:", "bind :")
    await waiting.begin(web_servers[0])

    async def tells(*binds: str) -> bool:
        return (await waiting.registrations())["web"].binds == binds

    port = waiting.home.port
    await eventually(lambda: tells(f"10.0.0.1:{port}"), "any address is the machine's")
    more = waiting.home.template.replace(f"bind :{port}", f"bind :{port},127.0.0.2:{port + 1} interface lo")
    await waiting.judged(waiting.import_template(more.replace("127.0.0.2:", "*:")), accepted=True)
    await eventually(lambda: tells(f"10.0.0.1:{port}", f"10.0.0.1:{port + 1}"), "the second one, too")
    key = waiting.at.keys.load_balancer("web", waiting.at.address)
    await waiting.at.store.commit([], [Put(key, encode(LoadBalancer(check="somewhere else")))])
    waiting.board.relisted.set(1)
    await eventually(lambda: tells(f"10.0.0.1:{port}", f"10.0.0.1:{port + 1}"), "put right")


async def test_nothing_is_written_while_nothing_changes(waiting: Waiting, web_servers: Servers) -> None:
    await waiting.begin(*web_servers)
    await waiting.registered("web")
    before = (await waiting.at.store.read(waiting.at.keys.services)).ranges
    for number in range(1, 4):
        waiting.board.relisted.set(number)
        waiting.import_template(waiting.home.template)
        await waiting.judged(number + 1, accepted=True)
    await waiting.restart()
    await waiting.judged(4, accepted=True)
    assert (await waiting.at.store.read(waiting.at.keys.services)).ranges == before


@on((True, DISTRIBUTION), (False, DISTRIBUTION))
async def test_a_registration_stays_while_an_old_worker_knows_the_service(
    waiting: Waiting, three: Three
) -> None:
    one, two, _ = three
    await waiting.begin(one, template=waiting.home.template + API)
    await waiting.registered("api", "web")
    await waiting.publish(two, service="api")

    async def has_both() -> bool:
        return await waiting.home.servers() == {f"web-{one.address}", f"api-{two.address}"}

    await eventually(has_both, "a server of each service")
    reader, writer = await half_sent(waiting)
    await waiting.judged(waiting.import_template(waiting.home.template), accepted=True)
    assert two.address not in waiting.home.config.read_text()
    await waiting.restart()  # also over a restart of the daemon
    await waiting.drain(two, service="api")
    said = await waiting.problem(f"endpoint api {two.address}", "not drained yet")
    assert "clients may still choose it" in said
    assert (await waiting.registrations()).keys() == {"api", "web"}
    writer.write(REQUEST[20:])
    assert b"one" in await reader.read(-1)
    writer.close()
    await waiting.registered("web")


async def test_what_a_lost_state_directory_does_not_name_is_found_and_taken_back(
    waiting: Waiting, web_servers: Servers
) -> None:
    key = waiting.at.keys.load_balancer("api", waiting.at.address)
    await waiting.at.store.commit([], [Put(key, b"{}")])
    await waiting.begin(*web_servers)
    await waiting.registered("web")


async def test_a_template_that_went_away_keeps_its_registrations_while_haproxy_runs(
    waiting: Waiting, web_servers: Servers
) -> None:
    one, two = web_servers
    await waiting.begin(one)
    waiting.import_template(None)
    await waiting.problem("template", "no tag of this machine carries haproxy.tpl any more")
    await waiting.restart()
    await waiting.publish(two)
    await waiting.routes_to(one.address, two.address)
    assert (await waiting.registrations()).keys() == {"web"}
    waiting.home.end()
    await waiting.registered()


async def test_services_are_listed_once_more_after_they_were_registered(
    waiting: Waiting, web_servers: Servers
) -> None:
    one, two = web_servers
    store = Refusing(waiting, "web")
    waiting.watched = Meddled(waiting.watched, watch=silent)
    await waiting.enter(one)
    waiting.import_template(waiting.home.template)
    waiting.start()
    await store.refused.wait()
    # what the watch should have told of since the first listing, and did not
    await waiting.publish(one, state="draining")
    await waiting.publish(two)
    store.services.clear()
    await waiting.routes_to(two.address)
