"""Whatever happens to endpoints, templates, HAProxy and the daemon: in the end all agree."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator

import pytest

from orbitcontrol.model.state import Endpoint
from support.haproxy import LoadBalancer, WebServer, an_endpoint, eventually, serving
from support.haproxy_servers import BOTH_VERSIONS, agreed, name, put, running, with_line

pytestmark = [pytest.mark.integration, BOTH_VERSIONS]

SERVERS = 8
CHAOS = 6.0
TRAFFIC = 4.0
"""Seconds."""

PACE = 0.005
"""Seconds between two requests."""

CLIENTS = 10
"""Each asks when it has been answered: a busy machine gets fewer requests, not more at once."""

LINE = "{{ e.address }} weight {{ e.attributes.weight | default(1) }}"
REMAINDERS = ["retries 4", "retries 5", "retries 5\n    balance leastconn", "retries 3\n    cookie S insert"]


@pytest.fixture
async def fleet() -> AsyncIterator[list[WebServer]]:
    servers = [WebServer(f"s{number}") for number in range(SERVERS)]
    for server in servers:
        await server.start()
    yield servers
    for server in servers:
        await server.stop()


class Chaos:
    """Changes one thing after the other, by the seed's dice."""

    def __init__(self, balancer: LoadBalancer, fleet: list[WebServer], seed: int) -> None:
        self.dice = random.Random(seed)
        self.balancer = balancer
        self.fleet = fleet
        self.published: dict[str, Endpoint] = {fleet[0].address: an_endpoint()}
        self.kills = 2

    async def step(self) -> None:
        what = self.dice.choices(
            [self.endpoints, self.template, self.kill_haproxy, self.kill_daemon], [30, 3, 1, 3]
        )[0]
        await what()
        await asyncio.sleep(self.dice.choice([0, 0.002, 0.02, 0.1, 0.3]))

    async def endpoints(self) -> None:
        for server in self.dice.sample(self.fleet, self.dice.choice([1, 1, 2, SERVERS])):
            state = self.dice.choice(["up", "up", "draining", "gone"])
            self.published.pop(server.address, None)
            if state != "gone":
                weight = str(self.dice.randint(1, 5))
                self.published[server.address] = an_endpoint(state=state, attributes={"weight": weight})
        put(self.balancer, **self.published)

    async def template(self) -> None:
        rest = self.dice.choice(REMAINDERS)
        self.balancer.import_template(self.balancer.home.template.replace("retries 3", rest))

    async def kill_haproxy(self) -> None:
        """Not often: a HAProxy that ends again and again is started with growing pauses."""
        if self.kills:
            self.kills -= 1
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(self.balancer.home.pid_file.read_text()), signal.SIGKILL)

    async def kill_daemon(self) -> None:
        await self.balancer.restart()

    def is_up(self, server: WebServer) -> bool:
        return server.address in self.published and self.published[server.address].state == "up"

    async def is_as_wanted(self) -> bool:
        servers = (await running(self.balancer.home)).get("web", {})
        now = {key: each.weight for key, each in servers.items() if each.admin == "ready"}
        return now == {
            f"web-{address}": int(endpoint.attributes.get("weight", "1"))
            for address, endpoint in self.published.items()
            if endpoint.state == "up"
        }


async def test_after_any_chaos_the_store_haproxy_and_the_file_agree(
    balancer: LoadBalancer, fleet: list[WebServer]
) -> None:
    seed = random.randrange(1 << 32)
    chaos = Chaos(balancer, fleet, seed)
    with_line(balancer, LINE)
    await serving(balancer, fleet[0])
    try:
        end = time.monotonic() + CHAOS
        while time.monotonic() < end:
            await chaos.step()
        await eventually(chaos.is_as_wanted, "the servers of the store")
        await agreed(balancer, *(each for each in fleet if chaos.is_up(each)))
        await balancer.settled()
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


async def test_no_request_is_lost_while_servers_come_and_go(
    balancer: LoadBalancer, fleet: list[WebServer]
) -> None:
    await serving(balancer, *fleet[:4])
    failures: list[str] = []
    answered: set[str] = set()
    end = time.monotonic() + TRAFFIC

    def goes_on() -> bool:
        return time.monotonic() < end or len(answered) < SERVERS

    async def ask() -> None:
        try:
            answer = await balancer.home.get()
        except OSError as error:
            answer = repr(error)
        (answered.add if answer.startswith("200 ") else failures.append)(answer)

    async def client() -> None:
        while goes_on():
            await ask()
            await asyncio.sleep(CLIENTS * PACE)

    async def changes() -> None:
        dice = random.Random(1)
        up = set(fleet[:4])
        while goes_on():
            left, came = (
                dice.choice(sorted(up, key=name)),
                dice.choice([each for each in fleet if each not in up]),
            )
            put(balancer, *up, came)
            await asyncio.sleep(0.05)
            up = up - {left} | {came}
            put(balancer, *up, **{left.address: an_endpoint(state="draining")})
            await asyncio.sleep(0.1)
            put(balancer, *up)
            await asyncio.sleep(0.05)
        await agreed(balancer, *up)

    async with asyncio.TaskGroup() as group:
        group.create_task(changes())
        for _ in range(CLIENTS):
            group.create_task(client())
    assert failures == []
    assert answered == {f"200 s{number}" for number in range(SERVERS)}
    assert len(balancer.board.reloads.value) == 1
