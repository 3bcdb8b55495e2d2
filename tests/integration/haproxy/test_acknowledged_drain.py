"""A real load balancer tells those who wait in a real store what it routes to, and what is drained."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from support.haproxy_acks import REQUEST, Waiting, half_sent
from support.haproxy_homes import DISTRIBUTION, EVERY_HAPROXY, NEWER, http_get, on
from support.haproxy_servers import Three, becomes, name, states, with_line

pytestmark = pytest.mark.integration

BOTH_VERSIONS = on((True, DISTRIBUTION), (True, NEWER))


@EVERY_HAPROXY
async def test_a_drain_is_acknowledged_with_its_sessions_and_once_more_when_they_have_ended(
    waiting: Waiting, three: Three
) -> None:
    one, two, _ = three
    await waiting.begin(two)
    request = asyncio.create_task(http_get(waiting.home.port, "/slow"))
    await two.asked.wait()
    await waiting.publish(one)
    await waiting.routes_to(one.address, two.address)
    assert waiting.told == []  # nobody waits
    await waiting.drain(two)
    await waiting.acknowledges(("two", "drained", 1))
    assert (await states(waiting))[name(two)] == "drain"
    assert two.address not in waiting.home.config.read_text()
    two.go.set()
    assert await request == "200 two"
    await waiting.acknowledges(("two", "drained", 1), ("two", "drained", 0))


@BOTH_VERSIONS
async def test_sessions_that_a_reload_takes_into_an_old_worker_have_not_ended(
    waiting: Waiting, three: Three
) -> None:
    one, two, _ = three
    await waiting.begin(two)
    request = asyncio.create_task(http_get(waiting.home.port, "/slow"))
    await two.asked.wait()
    await waiting.publish(one)
    await waiting.drain(two)
    await waiting.acknowledges(("two", "drained", 1))
    await waiting.reload()
    await becomes(waiting, two, None)  # the reload has not brought it back
    said = await waiting.problem(f"endpoint web {two.address}", "not drained yet")
    assert "sessions 1" in said
    assert waiting.told == [("two", "drained", 1)]
    two.go.set()
    assert await request == "200 two"
    await waiting.acknowledges(("two", "drained", 1), ("two", "drained", 0))


@BOTH_VERSIONS
async def test_a_half_sent_request_in_an_old_worker_keeps_a_drain_from_being_acknowledged(
    waiting: Waiting, three: Three
) -> None:
    one, two, third = three
    await waiting.begin(two)
    reader, writer = await half_sent(waiting)
    await waiting.publish(one)
    await waiting.reload()
    await waiting.drain(two)
    await waiting.drain(third)  # of which no worker has ever heard
    await waiting.acknowledges(("three", "drained", 0))
    said = await waiting.problem(f"endpoint web {two.address}", "not drained yet")
    assert "clients may still choose it" in said
    writer.write(REQUEST[20:])
    assert b"two" in await reader.read(-1)
    writer.close()
    await waiting.acknowledges(("three", "drained", 0), ("two", "drained", 0))


@BOTH_VERSIONS
async def test_an_endpoint_is_routed_to_when_haproxys_own_check_has_passed(
    waiting: Waiting, three: Three
) -> None:
    one, two, third = three
    with_line(waiting, "{{ e.address }} {% if e.machine != 'plain' %}check inter 100ms{% endif %}")
    await waiting.begin(one)
    await two.stop()
    await waiting.publish(two, ack=True)
    await waiting.publish(third, ack=True, machine="plain")
    await waiting.acknowledges(("three", "routed", 0))
    said = await waiting.problem(f"endpoint web {two.address}", "not routed to yet")
    assert "has not passed HAProxy's own check" in said
    await two.start()
    await waiting.acknowledges(("three", "routed", 0), ("two", "routed", 0))


async def test_what_the_template_leaves_out_is_acknowledged_all_the_same(
    waiting: Waiting, three: Three
) -> None:
    one, two, _ = three
    waiting.home.template = waiting.home.template.replace(
        'endpoints("web") -%}', 'endpoints("web") if e.revision != "hidden" -%}'
    )
    await waiting.begin(one)
    await waiting.publish(two, ack=True, revision="hidden")
    await waiting.acknowledges(("two", "routed", 0))


async def test_a_published_endpoint_that_drains_is_out_although_it_is_the_last(
    waiting: Waiting, three: Three
) -> None:
    _, two, _ = three
    await waiting.begin(two)
    await waiting.drain(two)
    await waiting.acknowledges(("two", "drained", 0))
    await waiting.routes_to()
    # it takes that back under another id
    await waiting.publish(two, id="again", ack=True)
    await waiting.acknowledges(("two", "drained", 0), ("again", "routed", 0))
    await waiting.routes_to(two.address)
    await waiting.has_acks("again")
    await waiting.withdraw(two)
    await waiting.has_acks()


@EVERY_HAPROXY
async def test_a_daemon_that_starts_anew_goes_on_with_what_it_told(waiting: Waiting, three: Three) -> None:
    one, two, third = three
    await waiting.begin(one, two, third)
    third.go.set()
    requests = [asyncio.create_task(http_get(waiting.home.port, "/slow")) for _ in range(3)]
    await two.asked.wait()
    await waiting.drain(third)
    await waiting.acknowledges(("three", "drained", 0))
    await waiting.drain(two)
    await waiting.acknowledges(("three", "drained", 0), ("two", "drained", 1))
    await waiting.stop()
    await waiting.withdraw(third)
    await waiting.restart()
    await waiting.has_acks("two")
    for server in (one, two):
        server.go.set()
    assert {await request for request in requests} == {"200 one", "200 two", "200 three"}
    await waiting.acknowledges(("three", "drained", 0), ("two", "drained", 1), ("two", "drained", 0))
    assert (await waiting.registrations()).keys() == {"web"}


async def test_what_an_haproxy_that_cannot_be_started_would_not_route_to_is_drained(
    waiting: Waiting, three: Three
) -> None:
    one, two, _ = three
    broken = waiting.home.directory / "broken"
    wrapper = waiting.home.directory / "haproxy"
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in *-W*) [ -e {broken} ] && exit 1;; esac\nexec {waiting.home.binary} "$@"\n'
    )
    wrapper.chmod(0o700)
    waiting.home.binary = str(wrapper)
    await waiting.begin(one, two)
    reader, writer = await half_sent(waiting)
    await waiting.reload()
    broken.touch()
    os.kill((await waiting.home.processes()).master, signal.SIGKILL)
    assert await reader.read(-1) == b""  # the old worker has ended, too
    writer.close()
    await waiting.problem("haproxy", "HAProxy")
    await waiting.publish(one, id="new", ack=True)
    await waiting.drain(two)
    await waiting.acknowledges(("two", "drained", 0))
    assert "HAProxy does not run" in await waiting.problem(f"endpoint web {one.address}", "not routed to yet")
    assert two.address not in waiting.home.config.read_text()
    broken.unlink()
    await waiting.acknowledges(("two", "drained", 0), ("new", "routed", 0))
    await waiting.routes_to(one.address)
