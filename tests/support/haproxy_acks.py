"""A load balancer on a real store, for those who wait there for what it acknowledges."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orbitcontrol.agent.follower import EndpointFollower
from orbitcontrol.agent.proxy_rotation import EndpointWatch
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.model import rollouts
from orbitcontrol.model.rollouts import Ack
from orbitcontrol.model.state import Alive
from orbitcontrol.model.stored import Delete, Put, Range
from orbitcontrol.ports import Store
from orbitcontrol.store.open import open_store
from support.etcd import EtcdServer
from support.haproxy import LEASE_TTL, LoadBalancer, WebServer, an_endpoint, eventually
from support.haproxy_homes import HAProxyHome

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Waiting(LoadBalancer):
    """A load balancer that follows its store, and a machine that publishes there and waits for it.

    ``told`` is each acknowledgement that was ever put: the publication's id, the step, the sessions.
    """

    def __init__(self, home: HAProxyHome, store: Store) -> None:
        super().__init__(home, store)
        self.told: list[tuple[str, str, int]] = []
        self.watched = store
        """The store as the load balancer sees endpoints in it."""
        self._store = store
        self._watches: list[asyncio.Task[None]] = []

    async def begin(self, *servers: WebServer, template: str | None = None) -> int:
        """In service with these servers of ``web``; the generation of its template."""
        await self.enter(*servers)
        generation = self.import_template(template or self.home.template)
        self.start()
        await self.judged(generation, accepted=True)
        await self.routes_to(*(server.address for server in servers))
        return generation

    async def enter(self, *servers: WebServer) -> None:
        """All that a load balancer finds in its store, with these endpoints of ``web``."""
        self.lease = await self._store.grant(LEASE_TTL)
        alive = encode(Alive(session="s1", registered=True))
        await self._store.commit([], [Put(self.at.keys.alive("10.0.0.1"), alive)])
        for server in servers:
            await self.publish(server)
        now = (await self._store.read()).revision
        self._watches.append(asyncio.create_task(self._note_acks(now)))

    def endpoint_watch(self) -> EndpointWatch:
        follower = EndpointFollower(
            store=self.watched, keys=self.at.keys, problems=self.board.problems, history=self.board.history
        )
        self._watches.append(asyncio.create_task(follower.run()))
        return follower

    async def stop(self) -> None:
        await super().stop()
        for task in self._watches[1:]:
            await _ended(task)
        del self._watches[1:]

    async def close(self) -> None:
        await self.stop()
        for task in self._watches:
            await _ended(task)

    async def publish(self, server: WebServer, service: str = "web", **fields: Any) -> None:
        value = encode(an_endpoint(**{"id": server.name, **fields}))
        await self._store.commit([], [Put(self.at.keys.endpoint(service, server.address), value)])

    async def drain(self, server: WebServer, **fields: Any) -> None:
        """Marks it as draining, and asks for an answer."""
        await self.publish(server, state="draining", ack=True, **fields)

    async def withdraw(self, server: WebServer) -> None:
        await self._store.commit([], [Delete(Range.single(self.at.keys.endpoint("web", server.address)))])

    async def acks(self) -> dict[str, Ack]:
        """What is acknowledged now, by the publication's id."""
        (found,) = (await self._store.read(self.at.keys.acks("web"))).ranges
        assert {each.lease for each in found} <= {self.lease}
        parts = (each.key.split("/") for each in found)
        return {
            publication: decode(each.value, Ack, key=each.key)
            for (*_, publication, address), each in zip(parts, found, strict=True)
            if address == self.at.address
        }

    async def acknowledges(self, *told: tuple[str, str, int]) -> None:
        """Waits until this is all that was ever told."""

        async def holds() -> bool:
            return self.told == list(told)

        await eventually(holds, f"told {told}, not {self.told}")

    async def has_acks(self, *publications: str) -> None:
        """Waits until exactly these are acknowledged."""

        async def holds() -> bool:
            return (await self.acks()).keys() == set(publications)

        await eventually(holds, f"acknowledgements for {publications}")

    async def registrations(self) -> dict[str, rollouts.LoadBalancer]:
        """This load balancer's, by service."""
        (found,) = (await self._store.read(self.at.keys.services)).ranges
        mine = [each for each in found if each.key.endswith(f"/loadbalancers/{self.at.address}")]
        assert not any(each.lease for each in mine)
        return {
            self.at.keys.below(each.key)[1]: decode(each.value, rollouts.LoadBalancer, key=each.key)
            for each in mine
        }

    async def registered(self, *services: str) -> None:
        """Waits until it is registered for exactly these services."""

        async def holds() -> bool:
            return (await self.registrations()).keys() == set(services)

        await eventually(holds, f"registered for {services}")

    async def reload(self) -> None:
        """Has HAProxy loaded anew, and nothing else changed."""
        before = await self.home.processes()
        lines = f"hard-stop-after 10s\n    maxconn {3000 + before.reloads}"
        await self.judged(
            self.import_template(self.home.template.replace("hard-stop-after 10s", lines)), accepted=True
        )
        assert (await self.home.processes()).reloads > before.reloads

    async def _note_acks(self, after: int) -> None:
        async with self._store.watch(self.at.keys.acks("web"), after=after) as stream:
            async for changes in stream:
                for event in changes.events:
                    if event.now is not None:
                        ack = decode(event.now.value, Ack, key=event.key)
                        self.told.append((event.key.split("/")[-2], ack.step, ack.sessions))


async def half_sent(balancer: Waiting) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that has sent 20 bytes of ``REQUEST``, in the worker that serves now."""
    reader, writer = await asyncio.open_connection("127.0.0.1", balancer.home.port)
    writer.write(REQUEST[:20])

    async def has_it() -> bool:
        return "CurrConns: 1\n" in await balancer.home.runtime("show info")

    await eventually(has_it, "HAProxy has accepted it")
    return reader, writer


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.fixture
async def waiting(haproxy_home: HAProxyHome, etcd_server: EtcdServer) -> AsyncIterator[Waiting]:
    """A load balancer whose daemon is not started yet, on a real etcd."""
    store = open_store(f"etcd://{etcd_server.endpoint}")
    await haproxy_home.begin()
    found = Waiting(haproxy_home, store)
    yield found
    await found.close()
    await store.close()
