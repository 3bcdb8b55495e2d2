"""Endpoints whose machine is gone, on a real HAProxy; the store's side is the test's."""

from __future__ import annotations

import os
import time

import pytest

from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.orphans import ORPHAN_TIMEOUT, Orphan, Writes
from support.haproxy import LoadBalancer, WebServer, an_endpoint, eventually
from support.haproxy_homes import DISTRIBUTION, NEWER, on

pytestmark = [pytest.mark.integration, on((True, DISTRIBUTION), (False, NEWER))]

Servers = tuple[WebServer, WebServer]
ELSEWHERE = "127.0.0.1:9"
"""A third server, which nobody asks: with it one orphan is a third of all endpoints."""


async def serving(balancer: LoadBalancer, entries: dict[str, Endpoint], *, line: str = "") -> None:
    """A load balancer in service with these endpoints; ``line`` is added to each server's."""
    balancer.watch.endpoints.set({"web": dict(entries)})
    template = balancer.home.template.replace("{{ e.address }}", "{{ e.address }} " + line)
    generation = balancer.import_template(template)
    balancer.start()
    await balancer.judged(generation, accepted=True)


def loses(balancer: LoadBalancer, *addresses: str) -> None:
    """The machines of these endpoints are gone."""
    balancer.watch.alive.set({})
    left = {
        address: endpoint
        for address, endpoint in balancer.watch.endpoints.value["web"].items()
        if address not in addresses
    }
    balancer.watch.endpoints.set({"web": left})


def up(*addresses: str) -> dict[str, Endpoint]:
    return dict.fromkeys(addresses, an_endpoint())


def proves(balancer: LoadBalancer, seconds: float) -> None:
    """So much more time has gone by in which the machine's writes to the store succeeded."""
    before, now = balancer.board.writes.value, time.monotonic()
    begun = max(now, before.until) if before else now
    balancer.board.writes.set(Writes(begun, begun + seconds))


async def counted(balancer: LoadBalancer) -> float:
    """The time that is counted against the one orphan, as it is on the disk."""
    found: list[Orphan] = []

    async def there() -> bool:
        found[:] = balancer.state.load().orphans
        return len(found) == 1

    await eventually(there, "an orphan on the disk")
    return found[0].counted


async def test_an_orphan_goes_out_while_nobody_reaches_it_and_returns(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, up(one.address, two.address))
    loses(balancer, one.address)
    await balancer.problem(f"endpoint web {one.address}", "in rotation while this machine can connect")
    await balancer.routes_to(one.address, two.address)
    await one.stop()
    await balancer.routes_to(two.address)
    await balancer.problem(f"endpoint web {one.address}", "out of rotation")
    await one.start()
    await balancer.routes_to(one.address, two.address)
    balancer.watch.publish("web", one.address, two.address)
    assert await balancer.board.problems.cell.wait_for(lambda told: not told, timeout=10)


async def test_where_haproxy_checks_by_itself_orbit_takes_nothing_out(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, up(one.address, two.address), line="check inter 400ms fall 2")
    loses(balancer, one.address)
    await balancer.problem(f"endpoint web {one.address}", "HAProxy's own check decides")
    before = await balancer.home.processes()
    await one.stop()

    async def down() -> bool:
        rows = (await balancer.home.runtime("show stat")).splitlines()
        return any(f"web-{one.address}," in row and ",DOWN" in row for row in rows)

    await eventually(down, "HAProxy finds it down")
    assert {await balancer.home.get() for _ in range(4)} == {"200 two"}
    await balancer.routes_to(one.address, two.address)
    assert await balancer.home.processes() == before


async def test_the_last_server_of_a_service_stays_whatever_is_known_against_it(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, up(one.address, two.address))
    loses(balancer, one.address, two.address)
    await two.stop()
    await balancer.routes_to(one.address)
    await one.stop()
    await balancer.problem(f"endpoint web {one.address}", "stays in rotation as the last of its service")
    proves(balancer, ORPHAN_TIMEOUT + 1)
    await balancer.routes_to(one.address, two.address)


async def test_a_draining_orphan_returns_as_the_last_one_that_is_reached(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, up(one.address) | {two.address: an_endpoint(state="draining")})
    await balancer.routes_to(one.address)
    loses(balancer, one.address, two.address)
    await balancer.problem(f"endpoint web {two.address}", "was draining and gets nothing new")
    await balancer.routes_to(one.address)
    await one.stop()
    await balancer.routes_to(two.address)

    async def answered_by_two() -> bool:
        return await balancer.home.get() == "200 two"

    await eventually(answered_by_two, "an answer of the draining one")
    await one.start()
    await balancer.routes_to(one.address)


async def test_an_orphan_ends_when_its_time_was_proven_and_the_store_still_lacks_it(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, up(one.address, two.address, ELSEWHERE))
    loses(balancer, one.address)
    subject = f"endpoint web {one.address}"
    await balancer.problem(subject, "stands still: this machine's writes")
    proves(balancer, 1)
    await balancer.problem(subject, "removed in at most 10 minutes")
    balancer.watch.unreachable = True
    proves(balancer, ORPHAN_TIMEOUT + 10)
    await balancer.problem(subject, "removed in at most 1 minute")
    await balancer.routes_to(one.address, two.address, ELSEWHERE)
    balancer.watch.unreachable = False
    await balancer.routes_to(two.address, ELSEWHERE)
    assert await balancer.board.problems.cell.wait_for(lambda told: not told, timeout=10)
    assert not balancer.board.orphaned.value
    balancer.watch.publish("web", one.address, two.address, ELSEWHERE)
    await balancer.routes_to(one.address, two.address, ELSEWHERE)


async def test_time_does_not_end_what_may_be_the_stores_fault(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, up(one.address, two.address))
    loses(balancer, one.address)
    proves(balancer, ORPHAN_TIMEOUT + 10)
    await balancer.problem(f"endpoint web {one.address}", "more than a third of all endpoints")
    assert await counted(balancer) == 0
    await balancer.routes_to(one.address, two.address)


async def test_the_clock_goes_on_after_a_restart_without_the_time_between(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, up(one.address, two.address, ELSEWHERE))
    loses(balancer, one.address)
    subject = f"endpoint web {one.address}"
    await balancer.problem(subject)
    proves(balancer, 1)
    await balancer.problem(subject, "removed in at most 10 minutes")
    proves(balancer, ORPHAN_TIMEOUT / 2)
    await balancer.problem(subject, "removed in at most 5 minutes")
    before = await counted(balancer)
    assert ORPHAN_TIMEOUT / 2 - 1 <= before < ORPHAN_TIMEOUT

    await balancer.restart()
    now = time.monotonic()
    balancer.board.writes.set(Writes(now - 3600, now))
    await balancer.problem(subject, "removed in at most 5 minutes")
    assert await counted(balancer) <= before + time.monotonic() - now
    proves(balancer, ORPHAN_TIMEOUT / 2 + 5)
    await balancer.routes_to(two.address, ELSEWHERE)


async def test_a_restart_leaves_an_unreachable_orphan_out_and_haproxy_alone(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, up(one.address, two.address))
    loses(balancer, one.address)
    await one.stop()
    await balancer.routes_to(two.address)
    await balancer.settled()
    before = await balancer.home.processes()
    await balancer.restart()
    await balancer.problem(f"endpoint web {one.address}", "out of rotation")
    assert await balancer.home.processes() == before
    await one.start()
    await balancer.routes_to(one.address, two.address)


async def test_an_orphan_whose_address_becomes_another_services_goes_out(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    balancer.watch.endpoints.set({"web": up(one.address, two.address), "api": {}})
    template = balancer.home.template
    backend = template[template.index("\nbackend web") + 1 :].replace("backend web", "backend api")
    generation = balancer.import_template(template + backend.replace('"web"', '"api"'))
    balancer.start()
    await balancer.judged(generation, accepted=True)
    balancer.watch.endpoints.set({"web": up(two.address), "api": {}})
    await balancer.problem(f"endpoint web {one.address}")
    balancer.watch.endpoints.set({"web": up(two.address), "api": up(one.address)})

    async def moved() -> bool:
        return await balancer.home.servers() == {f"api-{one.address}", f"web-{two.address}"}

    await eventually(moved, "the address among the other service's servers")


async def test_a_full_disk_costs_an_orphan_no_more_than_its_clock(
    balancer: LoadBalancer, web_servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = web_servers
    await serving(balancer, up(one.address, two.address, ELSEWHERE))
    loses(balancer, one.address)
    subject = f"endpoint web {one.address}"
    await balancer.problem(subject)
    assert await counted(balancer) == 0

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as disk:
        disk.setattr("orbitcontrol.statedir.replace_file", full)
        proves(balancer, 1)
        assert "No space left" in await balancer.problem("state directory")
        await balancer.problem(subject, "removed in at most 10 minutes")
        proves(balancer, ORPHAN_TIMEOUT / 2)
        await balancer.problem(subject, "removed in at most 5 minutes")
        assert await counted(balancer) == 0
    proves(balancer, 1)

    async def saved() -> bool:
        return await counted(balancer) > 0

    await eventually(saved, "the clock on the disk")
    proves(balancer, ORPHAN_TIMEOUT / 2)
    await balancer.routes_to(two.address, ELSEWHERE)
