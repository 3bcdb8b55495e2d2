"""A simulated load balancer: a daemon that follows endpoints, and an HAProxy that goes on without it.

HAProxy has a current worker, which takes commands and new connections, and leaving ones, which take neither:
a connection of theirs that has not chosen a server yet may still choose any that was ready when they left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import structs

from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import StoreError
from orbitcontrol.model.rollouts import Ack, LoadBalancer
from orbitcontrol.model.state import Alive, Endpoint
from orbitcontrol.model.stored import Delete, KeyValue, Operation, Put, Range, Reading
from simulation.daemon import KEYS, Daemon, Faults
from simulation.memory_store import MemoryCore
from simulation.publisher import RANGES_OF_LOAD_BALANCERS, endpoints_of
from simulation.shop import SERVICE
from simulation.timeline import Timeline

ServerState = Literal["ready", "drain"]
ORPHAN_TIMEOUT = 600.0


class Worker:
    """A process of HAProxy: its servers, its sessions by number, and connections that have not chosen."""

    def __init__(self, servers: dict[str, ServerState]) -> None:
        self.servers = servers
        self.sessions: dict[int, str] = {}
        self.undecided: set[int] = set()
        self.leaves = False

    @property
    def ended(self) -> bool:
        return self.leaves and not self.sessions and not self.undecided

    def can_choose(self, address: str) -> bool:
        """True when somebody may still be sent there by this worker."""
        return self.servers.get(address) == "ready" and (not self.leaves or bool(self.undecided))

    def sessions_at(self, address: str) -> int:
        return sum(at == address for at in self.sessions.values())

    def quiet(self, address: str) -> bool:
        """True for a leaving worker from which nothing goes there any more."""
        return not self.undecided and not self.sessions_at(address)


class Balancer(Daemon):
    """``reachable`` tells whether something answers at an address, ``asked`` hears where requests go."""

    def __init__(
        self,
        address: str,
        timeline: Timeline,
        core: MemoryCore,
        faults: Faults,
        *,
        reachable: Callable[[str], bool],
        asked: Callable[[str, str, bool], None],
    ) -> None:
        self.workers: list[Worker] = []
        self.known: dict[str, Endpoint] = {}
        """On disk: the endpoints in rotation, orphans with them."""
        self.orphaned: dict[str, float] = {}
        self.routes = False
        """Its template names the service."""
        self.reload_wanted = False
        self._reachable = reachable
        self._asked = asked
        self._numbers = 0
        super().__init__(address, timeline, core, faults)
        self.forget()

    def forget(self) -> None:
        self.is_registered = False
        self.is_syncing = False

    def joined(self) -> None:
        self.sync()
        self._tick(self.session)

    def _tick(self, session: str) -> None:
        if session == self.session:
            self.after(self.timeline.between(40, 60), lambda: self._tick(session))
            self.sync()

    @property
    def current(self) -> Worker | None:
        return self.workers[-1] if self.workers and not self.workers[-1].leaves else None

    def can_choose(self, address: str) -> bool:
        return any(worker.can_choose(address) for worker in self.workers)

    def sessions_at(self, address: str) -> int:
        return sum(worker.sessions_at(address) for worker in self.workers)

    def reboot(self) -> None:
        """HAProxy was gone with its machine, and starts when its daemon has looked."""
        self.workers = []

    # --- what the daemon does ------------------------------------------------------------------------

    def sync(self) -> None:
        """Something that it follows has changed, or may have."""
        if self.runs:
            self.soon("sync", self._sync)

    def _sync(self) -> None:
        if self.is_syncing or not self.session:
            return
        self.is_syncing = True
        if self.routes and not self.is_registered:
            self._register_here()
        else:
            self.read(RANGES_OF_LOAD_BALANCERS, self._heard)

    def _synced(self, again: float | None = None) -> None:
        self.is_syncing = False
        if again is not None:
            self.after(again, self.sync)

    def _register_here(self) -> None:
        """Before anything is routed, and before the endpoints are listed."""
        key = KEYS.load_balancer(SERVICE, self.address)

        def done(answer: int | StoreError) -> None:
            if isinstance(answer, StoreError):
                self._synced(again=1.0)
                return
            self.is_registered = True
            self.read(RANGES_OF_LOAD_BALANCERS, self._heard)

        found = self.core.read(Range.single(key)).ranges[0]
        if found:
            self.is_registered = True
            self.read(RANGES_OF_LOAD_BALANCERS, self._heard)
        else:
            self.commit((), (Put(key, encode(LoadBalancer())),), done)

    def _heard(self, answer: Reading | StoreError) -> None:
        if isinstance(answer, StoreError):
            self._synced(again=self.timeline.between(0.5, 1.5))
            return
        acks = answer.ranges[2]
        self.after(self.timeline.between(0.01, 0.4), lambda: self._apply(answer, acks))

    def _apply(self, reading: Reading, acks: tuple[KeyValue, ...]) -> None:
        if not self.host_up:
            return
        self._follow(reading)
        self.workers = [worker for worker in self.workers if not worker.ended]
        servers = self._servers()
        current = self.current
        if not (self.routes and self.is_registered):
            self._leave()
        elif current is None:
            self.workers.append(Worker(servers))
        elif self.reload_wanted:
            current.leaves = True
            ready: dict[str, ServerState] = {each: "ready" for each in servers if servers[each] == "ready"}
            self.workers.append(Worker(ready))
        else:
            current.servers = servers
        self.reload_wanted = False
        if self.routes and not self.is_registered:  # the template names it since a moment ago
            self._synced(again=0.05)
            return
        if not self.routes and not self.workers:
            self._deregister()
            return
        self._confirm(reading, acks)

    def _leave(self) -> None:
        for worker in self.workers:
            worker.leaves = True
        self.workers = [worker for worker in self.workers if not worker.ended]

    def _deregister(self) -> None:
        def done(answer: int | StoreError) -> None:
            if isinstance(answer, StoreError):
                self._synced(again=1.0)
            else:
                self._synced(again=0.1 if self.routes else None)

        self.known, self.orphaned, self.is_registered = {}, {}, False
        key = KEYS.load_balancer(SERVICE, self.address)
        if self.core.read(Range.single(key)).ranges[0]:
            self.commit((), (Delete(Range.single(key)),), done)
        else:
            done(0)

    def _follow(self, reading: Reading) -> None:
        """What is withdrawn goes; what its machine cannot speak of any more stays as it was."""
        listed = endpoints_of(reading)
        alive = {
            item.key.rpartition("/")[2]: decode(item.value, Alive, key=item.key) for item in reading.ranges[1]
        }
        now = self.timeline.now
        for address, endpoint in tuple(self.known.items()):
            if address in listed:
                self.orphaned.pop(address, None)
                continue
            owner = alive.get(endpoint.machine)
            if owner is not None and (owner.registered or owner.session == endpoint.session):
                del self.known[address]
                self.orphaned.pop(address, None)
            elif now - self.orphaned.setdefault(address, now) > ORPHAN_TIMEOUT and listed:
                del self.known[address], self.orphaned[address]
        self.known |= listed

    def _servers(self) -> dict[str, ServerState]:
        servers: dict[str, ServerState] = {
            address: "drain" if endpoint.state == "draining" else "ready"
            for address, endpoint in sorted(self.known.items())
        }
        reachable = {each for each in servers if servers[each] == "ready" and self._reachable(each)}
        if not reachable:  # the last that can be reached returns, if nobody speaks for it any more
            last = next((each for each in sorted(self.orphaned) if self._reachable(each)), None)
            if last is not None:
                servers[last] = "ready"
        return servers

    # --- acknowledgements ------------------------------------------------------------------------------

    def _confirm(self, reading: Reading, acks: tuple[KeyValue, ...]) -> None:
        listed = {endpoint.id: address for address, endpoint in endpoints_of(reading).items()}
        endpoints = {endpoint.id: endpoint for endpoint in endpoints_of(reading).values()}
        mine = {item.key.split("/")[-2]: item for item in acks if item.key.rpartition("/")[2] == self.address}
        operations: list[Operation] = []
        waits = False
        for each, address in listed.items():
            endpoint = endpoints[each]
            if not endpoint.ack:
                continue
            ack = self.confirmation(endpoint, address)
            found = mine.get(each)
            before = None if found is None else decode(found.value, Ack, key=found.key)
            same_lease = found is not None and found.lease == self.lease
            if ack is None:
                waits = True
                continue
            waits |= ack.sessions > 0
            if (
                before is not None
                and same_lease
                and (before.step, before.sessions > 0)
                == (
                    ack.step,
                    ack.sessions > 0,
                )
            ):
                continue
            operations.append(Put(KEYS.ack(SERVICE, each, self.address), encode(ack), self.lease))
        operations += [Delete(Range.single(item.key)) for each, item in mine.items() if each not in listed]
        leaving = any(worker.leaves for worker in self.workers)
        if not operations:
            self._synced(again=0.3 if waits else 2.0 if leaving else None)
            return

        def done(answer: int | StoreError) -> None:
            self._synced(again=0.2)

        self.commit((), tuple(operations), done)

    def confirmation(self, endpoint: Endpoint, address: str) -> Ack | None:
        """What can be confirmed of the endpoint now."""
        current = self.current
        if endpoint.state == "up":
            routed = current is not None and current.servers.get(address) == "ready"
            return Ack(step="routed") if routed else None
        if current is not None and current.servers.get(address) == "ready":
            return None
        if not self.all_leaving_are_quiet(address):
            return None
        sessions = 0 if current is None else current.sessions_at(address)
        return structs.replace(Ack(step="drained"), sessions=sessions)

    def all_leaving_are_quiet(self, address: str) -> bool:
        """True when no worker of an earlier configuration can send anybody there."""
        return all(worker.quiet(address) for worker in self.workers if worker.leaves)

    # --- traffic ---------------------------------------------------------------------------------------

    def connect(self) -> None:
        """A client connects, and chooses a server in a moment, or in a while."""
        worker = self.current
        if worker is None or not self.host_up:
            return
        between = self.timeline.between
        self._numbers += 1
        number = self._numbers
        worker.undecided.add(number)
        thinks = between(0, 0.1) if self.timeline.chance(0.8) else between(0.1, 15)
        self.timeline.after(thinks, lambda: self._choose(worker, number))

    def _choose(self, worker: Worker, number: int) -> None:
        worker.undecided.discard(number)
        if not self.host_up or worker not in self.workers:
            return
        ready = [address for address, state in worker.servers.items() if state == "ready"]
        if ready:
            self._ask(worker, number, self.timeline.dice.choice(ready))

    def _ask(self, worker: Worker, number: int, address: str) -> None:
        self._asked(address, self.address, worker.leaves)
        worker.sessions[number] = address
        length = (
            self.timeline.dice.expovariate(1.0)
            if self.timeline.chance(0.95)
            else self.timeline.between(10, 90)
        )
        self.timeline.after(length, lambda: self._end(worker, number))

    def _end(self, worker: Worker, number: int) -> None:
        worker.sessions.pop(number, None)
