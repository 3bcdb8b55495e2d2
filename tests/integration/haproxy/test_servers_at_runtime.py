"""Servers come, go and change in a running HAProxy, without a reload, and the file says the same.

What the store wants, what runs and what the disk says are compared after each change.
"""

from __future__ import annotations

import asyncio

import pytest

from support.haproxy import LoadBalancer, WebServer, an_endpoint, eventually, serving
from support.haproxy_homes import EVERY_HAPROXY, http_get
from support.haproxy_servers import (
    BOTH_VERSIONS,
    Three,
    agreed,
    becomes,
    drained,
    looks_again,
    name,
    put,
    reloads_of,
    running,
    states,
    with_line,
)

pytestmark = pytest.mark.integration

WEIGHED = "{{ e.address }} weight {{ e.attributes.weight | default(1) }}"


@EVERY_HAPROXY
async def test_servers_come_go_and_change_their_weight_without_a_reload(
    balancer: LoadBalancer, three: Three
) -> None:
    one, two, third = three
    with_line(balancer, WEIGHED)
    await serving(balancer, one)
    counted = await reloads_of(balancer)
    put(balancer, one, two, third)
    await agreed(balancer, one, two, third)
    assert {await balancer.home.get() for _ in range(6)} == {"200 one", "200 two", "200 three"}
    put(balancer, one, **{two.address: an_endpoint(attributes={"weight": "0"})})
    await agreed(balancer, one, two)
    assert (await running(balancer.home))["web"][name(two)].weight == 0
    assert {await balancer.home.get() for _ in range(4)} == {"200 one"}
    put(balancer, two)
    await agreed(balancer, two)
    assert {await balancer.home.get() for _ in range(3)} == {"200 two"}
    await counted.none()


@BOTH_VERSIONS
async def test_a_draining_server_ends_its_requests_and_is_forgotten_in_time(
    balancer: LoadBalancer, three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, _ = three
    await serving(balancer, two)
    request = asyncio.create_task(http_get(balancer.home.port, "/slow"))
    await two.asked.wait()
    counted = await reloads_of(balancer)
    put(balancer, one, **drained(two))
    await becomes(balancer, two, "drain")
    await agreed(balancer, one)
    assert {await balancer.home.get() for _ in range(4)} == {"200 one"}
    await looks_again(balancer)
    assert (await states(balancer))[name(two)] == "drain"
    two.go.set()
    assert await request == "200 two"
    await becomes(balancer, two, "maint")
    monkeypatch.setattr("orbitcontrol.planning.servers.KEPT", 0.1)
    await becomes(balancer, two, None)
    await counted.none()


async def test_a_server_that_returns_while_it_leaves_is_taken_back(
    balancer: LoadBalancer, three: Three
) -> None:
    one, two, _ = three
    await serving(balancer, one)
    put(balancer, one, two)
    await agreed(balancer, one, two)
    number = await server_id(balancer, two)
    counted = await reloads_of(balancer)
    put(balancer, one)
    await becomes(balancer, two, "maint")
    await agreed(balancer, one)
    put(balancer, one, two)
    await agreed(balancer, one, two)
    request = asyncio.create_task(http_get(balancer.home.port, "/slow"))
    other = asyncio.create_task(http_get(balancer.home.port, "/slow"))
    await two.asked.wait()
    put(balancer, one, **drained(two))
    await becomes(balancer, two, "drain")
    put(balancer, one, two)
    await agreed(balancer, one, two)
    assert await server_id(balancer, two) == number
    for server in (one, two):
        server.go.set()
    assert {await request, await other} == {"200 one", "200 two"}
    await counted.none()


async def test_a_server_that_cannot_be_forgotten_yet_is_still_known_when_it_returns(
    balancer: LoadBalancer, three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, _ = three
    await serving(balancer, two)
    request = asyncio.create_task(http_get(balancer.home.port, "/slow"))
    await two.asked.wait()
    counted = await reloads_of(balancer)
    monkeypatch.setattr("orbitcontrol.planning.servers.KEPT", 0.1)
    put(balancer, one)
    await becomes(balancer, two, "maint")
    for _ in range(2):  # HAProxy refuses to delete it while it has a connection
        await looks_again(balancer)
    assert (await states(balancer))[name(two)] == "maint"
    put(balancer, one, two)
    await agreed(balancer, one, two)
    two.go.set()
    assert await request == "200 two"
    await counted.none()


async def server_id(balancer: LoadBalancer, server: WebServer) -> str:
    """The number that HAProxy gave it when it was added."""
    rows = [row.split() for row in (await balancer.home.runtime("show servers state web")).splitlines()]
    return next(row[2] for row in rows if len(row) > 3 and row[3] == name(server))


async def test_a_dead_server_is_in_maintenance_at_once_whatever_runs_on_it(
    balancer: LoadBalancer, three: Three
) -> None:
    one, two, _ = three
    await serving(balancer, two)
    request = asyncio.create_task(http_get(balancer.home.port, "/slow"))
    await two.asked.wait()
    put(balancer, one)
    await becomes(balancer, two, "maint")
    await agreed(balancer, one)
    two.go.set()
    assert await request == "200 two"


@BOTH_VERSIONS
async def test_a_server_under_a_cookie_goes_to_maintenance_although_it_drains(
    balancer: LoadBalancer, three: Three
) -> None:
    one, two, _ = three
    with_line(balancer, section="    cookie S insert\n")
    await serving(balancer, two)
    request = asyncio.create_task(http_get(balancer.home.port, "/slow"))
    await two.asked.wait()
    counted = await reloads_of(balancer)
    put(balancer, one, **drained(two))
    await becomes(balancer, two, "maint")
    await agreed(balancer, one)
    two.go.set()
    assert await request == "200 two"
    await counted.none()


@EVERY_HAPROXY
async def test_what_somebody_else_changes_is_put_right_and_told(balancer: LoadBalancer, three: Three) -> None:
    one, two, third = three
    with_line(balancer, "{{ e.address }} check inter 1h")
    await serving(balancer, one, two)
    await looks_again(balancer)
    counted = await reloads_of(balancer)
    server = name(two)
    for command, repair in (
        (f"set server web/{server} state maint", f"set server web/{server} state ready"),
        (f"set server web/{server} state drain", f"set server web/{server} state ready"),
        (f"set server web/{server} weight 7", f"set server web/{server} weight 1"),
        (f"set server web/{server} addr 127.0.0.9 port 9", f"set server web/{server} addr 127.0.0.1 port"),
        (f"disable health web/{server}", f"enable health web/{server}"),
        (f"add server web/{name(third)} {third.address}", ""),
        (f"enable server web/{name(third)}", f"set server web/{name(third)} state maint"),
        (f"set server web/{server} state maint; del server web/{server}", f"add server web/{server}"),
    ):
        said = await balancer.home.runtime(command)
        assert not said.strip() or "register" in said or "deleted" in said or "changed" in said, said
        if repair:
            assert repair in await balancer.problem("haproxy", repair)
        await agreed(balancer, one, two)
    await counted.none()


async def test_a_server_that_is_said_to_be_down_is_up_again(balancer: LoadBalancer, three: Three) -> None:
    one, two, _ = three
    await serving(balancer, one, two)
    await looks_again(balancer)
    await balancer.home.runtime(f"set server web/{name(two)} health down")
    assert "put right" in await balancer.problem("haproxy", "health up")
    await agreed(balancer, one, two)


async def test_servers_that_follow_others_come_and_go(balancer: LoadBalancer, three: Three) -> None:
    one, two, third = three
    with_line(balancer, "{{ e.address }} track other/first")
    balancer.home.template += f"backend other\n    server first {one.address} check inter 1h\n"
    balancer.watch.publish("web", one.address, two.address)
    generation = balancer.import_template(balancer.home.template)
    balancer.start()
    await balancer.judged(generation, accepted=True)
    await agreed(balancer, one, two)
    counted = await reloads_of(balancer)
    put(balancer, one, third)
    await becomes(balancer, two, "maint")
    put(balancer, one, two, third)
    await agreed(balancer, one, two, third)
    await counted.none()


@BOTH_VERSIONS
async def test_a_server_that_was_added_has_the_options_of_the_default_server(
    balancer: LoadBalancer, three: Three
) -> None:
    one, two, _ = three
    default = "    default-server check inter 100ms fastinter 100ms downinter 100ms fall 1 rise 1 weight 3\n"
    with_line(balancer, section=default)
    await serving(balancer, one)
    counted = await reloads_of(balancer)
    put(balancer, one, two)
    await agreed(balancer, one, two)
    assert (await running(balancer.home))["web"][name(two)].weight == 3
    await two.stop()

    async def is_down() -> bool:
        return (await running(balancer.home))["web"][name(two)].down

    await eventually(is_down, "found down by HAProxy's own check")
    assert {await balancer.home.get() for _ in range(4)} == {"200 one"}
    await two.start()
    await agreed(balancer, one, two)
    await counted.none()


@BOTH_VERSIONS
async def test_a_hashed_backend_sends_each_uri_to_its_server_through_changes_and_restarts(
    balancer: LoadBalancer, three: Three
) -> None:
    one, two, third = three
    with_line(balancer, section="    hash-type consistent\n")
    balancer.home.template = balancer.home.template.replace("balance roundrobin", "balance uri")
    await serving(balancer, one, two)
    counted = await reloads_of(balancer)
    at_first = await sent(balancer)
    put(balancer, one, two, third)
    await agreed(balancer, one, two, third)
    more = await sent(balancer)
    assert set(more.values()) == {"200 one", "200 two", "200 three"}
    assert {uri for uri in more if more[uri] != at_first[uri]} == {
        uri for uri in more if more[uri] == "200 three"
    }
    ids = {server: await server_id(balancer, server) for server in three}
    await counted.none()
    changed = balancer.home.template.replace("retries 3", "retries 4")
    await balancer.judged(balancer.import_template(changed), accepted=True)
    assert await sent(balancer) == more
    assert {server: await server_id(balancer, server) for server in three} == ids
    put(balancer, two, third)
    await agreed(balancer, two, third)
    fewer = await sent(balancer)
    assert {uri: more[uri] for uri in more if more[uri] != "200 one"} == {
        uri: fewer[uri] for uri in more if more[uri] != "200 one"
    }
    put(balancer, one, two, third)
    await agreed(balancer, one, two, third)
    assert await sent(balancer) == more


async def sent(balancer: LoadBalancer) -> dict[str, str]:
    """Who answers which URI."""
    uris = [f"/{number}" for number in range(60)]
    return {uri: await http_get(balancer.home.port, uri) for uri in uris}


async def test_servers_of_a_template_and_of_others_are_left_as_they_are(
    balancer: LoadBalancer, three: Three
) -> None:
    one, two, third = three
    theirs = f"    server-template t 1-2 {third.address}\n    server nocheck-x {third.address}\n"
    with_line(balancer, section=theirs)
    balancer.watch.publish("web", one.address)
    generation = balancer.import_template(balancer.home.template)
    balancer.start()
    await balancer.judged(generation, accepted=True)
    counted = await reloads_of(balancer)
    for command in (
        "set server web/t1 state drain",
        "set server web/nocheck-x weight 9",
        "add server web/nocheck-new 127.0.0.1:1",
    ):
        await balancer.home.runtime(command)
    put(balancer, one, two)
    await becomes(balancer, two, "ready")
    await looks_again_at(balancer, two)
    now = (await running(balancer.home))["web"]
    assert (now["t1"].admin, now["nocheck-x"].weight, now["nocheck-new"].admin) == ("drain", 9, "maint")
    await counted.none()


async def looks_again_at(balancer: LoadBalancer, server: WebServer) -> None:
    await balancer.home.runtime(f"set server web/{name(server)} state drain")
    await becomes(balancer, server, "ready")
