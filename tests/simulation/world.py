"""A simulated world: machines, load balancers, people, clients, and everything that goes wrong.

The same seed gives the same world, event by event.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from msgspec import Struct

from orbitcontrol.model.stored import Changes
from simulation.balancer import Balancer
from simulation.daemon import KEYS, TTL, Daemon, Faults
from simulation.invariants import Invariants
from simulation.machine import Machine
from simulation.memory_store import MemoryCore
from simulation.people import People
from simulation.shop import Tree
from simulation.timeline import Timeline


class Kinds(Struct, frozen=True, kw_only=True):
    """Of which classes the world is made: a variant that is broken on purpose is a subclass."""

    machine: type[Machine] = Machine
    balancer: type[Balancer] = Balancer


class World:
    """See above. ``machines`` and ``balancers`` say how many there are."""

    def __init__(
        self, seed: str, *, machines: int, balancers: int, tree: Tree, kinds: Kinds | None = None
    ) -> None:
        kinds = kinds or Kinds()
        self.timeline = Timeline(seed)
        self.core = MemoryCore(lambda: self.timeline.now)
        self.faults = Faults()
        self.people = People(self.core, self.timeline)
        self.machines: dict[str, Machine] = {}
        self.balancers: dict[str, Balancer] = {}
        self.traffic = True
        self.invariants = Invariants(self.timeline, self.core, self.machines, self.balancers, self.gone)
        self._publishers: dict[str, str] = {}
        self.core.listeners.append(self._news)
        self.people.install(tree)
        for number in range(machines):
            address = f"m{number:03d}"
            self.machines[address] = kinds.machine(
                address,
                self.timeline,
                self.core,
                self.faults,
                witness=self.invariants,
                gone=self.gone,
            )
        for number in range(balancers):
            address = f"lb{number}"
            balancer = kinds.balancer(
                address,
                self.timeline,
                self.core,
                self.faults,
                reachable=self.reachable,
                asked=self.invariants.asked,
            )
            balancer.routes = True
            self.balancers[address] = balancer
            self._clients(balancer)
        for daemon in self.daemons:
            daemon.start()

    @property
    def daemons(self) -> list[Daemon]:
        return [*self.machines.values(), *self.balancers.values()]

    def gone(self) -> frozenset[str]:
        """Who is proven gone: no lease for three TTLs, and nothing answers."""
        now = self.timeline.now
        return frozenset(
            one.address
            for one in self.daemons
            if one.lost_since is not None
            and now - one.lost_since >= 3 * TTL
            and (not one.host_up or one.isolated)
        )

    def reachable(self, at: str) -> bool:
        """True when a container answers there."""
        machine = self.machines[at.partition(":")[0]]
        container = machine.engine.at(at)
        return (
            machine.host_up
            and not machine.isolated
            and container is not None
            and container.alive
            and container.serves
        )

    # --- time ----------------------------------------------------------------------------------------

    def run_for(self, seconds: float) -> None:
        """Lets time pass."""
        self.run_until(lambda: False, at_most=seconds)

    def run_until(self, holds: Callable[[], bool], *, at_most: float) -> bool:
        """Lets time pass until something holds, asked after each event; False when it never did."""
        end = self.timeline.now + at_most
        is_over = [False]

        def over() -> None:
            is_over[0] = True

        self.timeline.after(at_most, over)
        while not is_over[0] and self.timeline.now <= end:
            self.timeline.step()
            if holds():
                return True
        return False

    def run_until_quiet(self, *, quiet: float, at_most: float) -> bool:
        """Lets time pass until nothing was written for so long."""
        end = self.timeline.now + at_most
        while self.timeline.now < end:
            before = self.core.revision
            self.run_for(quiet)
            if self.core.revision == before:
                return True
        return False

    # --- news and traffic ------------------------------------------------------------------------------

    def _news(self, changes: Changes) -> None:
        """What was written reaches who watches it, each after a delay of its own."""
        for event in changes.events:
            match KEYS.below(event.key):
                case ("services", _, "slots", _) if event.now is None:
                    self._tell([each for each in self.machines.values() if each.listens_for_slots], "wake")
                case ("services", _, "acks", id, _):
                    machine = self.machines.get(self._publishers.get(id, ""))
                    if machine is not None:
                        self._tell([machine], "wake")
                case ("services", _, "endpoints", at):
                    if event.now is not None:
                        self._learn(event.now.value, at)
                    self._tell(list(self.balancers.values()), "sync")
                case ("alive", address):
                    self._alive(address, is_alive=event.now is not None)
                    self._tell(list(self.balancers.values()), "sync")
                case (
                    ("config", *_)
                    | ("drains", _)
                    | ("deployments", _, "rollout" | "revision" | "machines", *_)
                ):
                    self._tell(list(self.machines.values()), "look_at_configuration")
                case _:
                    pass

    def _learn(self, value: bytes, at: str) -> None:
        endpoint = value.partition(b'"Id":"')[2].partition(b'"')[0].decode()
        self._publishers[endpoint] = at.partition(":")[0]

    def _alive(self, address: str, *, is_alive: bool) -> None:
        daemon: Daemon | None = self.machines.get(address) or self.balancers.get(address)
        if daemon is not None:
            daemon.lost_since = None if is_alive else self.timeline.now

    def _tell(self, daemons: list[Machine] | list[Balancer], method: str) -> None:
        for daemon in daemons:
            delay = self.timeline.between(0.005, 0.2)
            if self.timeline.chance(0.02):
                delay += self.timeline.between(0.5, 5)
            self.timeline.after(delay, partial(self._hear, daemon, method))

    def _hear(self, daemon: Daemon, method: str) -> None:
        if daemon.hears:
            getattr(daemon, method)()

    def _clients(self, balancer: Balancer) -> None:
        if self.traffic:
            balancer.connect()
        self.timeline.after(self.timeline.dice.expovariate(1.0), lambda: self._clients(balancer))

    # --- what goes wrong -----------------------------------------------------------------------------

    def crash(self, daemon: Daemon, seconds: float) -> None:
        """The daemon's process dies, and is started again."""
        self.invariants.note(f"--- {daemon.address} crashes for {seconds:.1f}")
        daemon.crash()
        self.timeline.after(seconds, daemon.start)

    def freeze(self, daemon: Daemon, seconds: float) -> None:
        """The daemon takes no steps for a while."""
        self.invariants.note(f"--- {daemon.address} freezes for {seconds:.1f}")
        daemon.freeze()
        self.timeline.after(seconds, daemon.wake_up)

    def split(self, daemon: Daemon, seconds: float) -> None:
        """The daemon does not reach the store for a while."""
        self.invariants.note(f"--- {daemon.address} is cut off from the store for {seconds:.1f}")
        daemon.split = True
        self.timeline.after(seconds, lambda: self._heal(daemon))

    def isolate(self, machine: Machine, seconds: float) -> None:
        """Nobody reaches the machine, and it nobody."""
        self.invariants.note(f"--- {machine.address} is isolated for {seconds:.1f}")
        machine.isolated = True
        self.timeline.after(seconds, lambda: self._heal(machine))

    def _heal(self, daemon: Daemon) -> None:
        daemon.split = daemon.isolated = False
        if isinstance(daemon, Machine):
            daemon.look_at_configuration()
            daemon.wake()
        elif isinstance(daemon, Balancer):
            daemon.sync()

    def take_down(self, daemon: Daemon, seconds: float | None) -> None:
        """The machine is down with all that ran on it; for ever without ``seconds``."""
        self.invariants.note(f"--- {daemon.address} is down for {seconds}")
        daemon.crash()
        daemon.host_up = False
        if isinstance(daemon, Machine):
            daemon.engine.stop_all()
        elif isinstance(daemon, Balancer):
            daemon.reboot()
        if seconds is not None:
            self.timeline.after(seconds, lambda: self._boot(daemon))

    def _boot(self, daemon: Daemon) -> None:
        daemon.host_up = True
        daemon.start()

    def heal_all(self) -> None:
        """Nothing goes wrong any more; who is down for ever stays so."""
        self.faults.ambiguous = self.faults.docker = 0.0
        for daemon in self.daemons:
            self._heal(daemon)
            daemon.wake_up()
            if daemon.host_up:
                daemon.start()
