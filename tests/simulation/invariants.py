"""What must hold in a simulated world at every moment, whatever happens to it.

The truth is the world's own: where HAProxy can send somebody, which containers run, what stands in the store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from orbitcontrol.codec.values import decode
from orbitcontrol.model.rollouts import Progress, Rollout, Slot
from orbitcontrol.model.state import Endpoint
from orbitcontrol.model.stored import Changes, KeyValue
from orbitcontrol.planning.container_specs import OwnContainer
from orbitcontrol.planning.rollout_steps import Action, Rest, Wait
from orbitcontrol.planning.slots import slots_of
from simulation.balancer import Balancer
from simulation.daemon import KEYS
from simulation.machine import Machine, Witness
from simulation.memory_store import MemoryCore
from simulation.shop import META, Tree
from simulation.timeline import Timeline


class Violation(AssertionError):
    """An invariant was broken."""


class Invariants(Witness):
    """Watches a world. ``log`` has the newest things that happened, for who looks for the cause."""

    def __init__(
        self,
        timeline: Timeline,
        core: MemoryCore,
        machines: Mapping[str, Machine],
        balancers: Mapping[str, Balancer],
        gone: Callable[[], frozenset[str]],
    ) -> None:
        self.log: deque[str] = deque(maxlen=3000)
        self.requests = 0
        self.stopped = 0
        self.begun: set[str] = set()
        """The rollouts that there were."""
        self._timeline = timeline
        self._machines = machines
        self._balancers = balancers
        self._gone = gone
        self.tree = Tree()
        self.rollout: Rollout | None = None
        self.slots: dict[str, Slot] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.progress: dict[str, Progress] = {}
        self.alive: set[str] = set()
        self.drains: set[str] = set()
        self.marked: dict[str, float] = {}
        """Since when each endpoint drains, by its id."""
        self.out: set[str] = set()
        """Machines that Orbit has taken out and that are not back."""
        self.looks: dict[str, int] = {}
        """Of holders that have not gone out yet: the fewest others that were out since they took the slot."""
        core.listeners.append(self.changed)

    def note(self, text: str) -> None:
        """Something that happened."""
        self.log.append(f"{self._timeline.now:10.3f}  {text}")

    def broken(self, text: str) -> None:
        """Something that must not have."""
        self.note(f"!!! {text}")
        raise Violation(f"{self._timeline.now:.3f}: {text}")

    # --- the store -----------------------------------------------------------------------------------

    def changed(self, changes: Changes) -> None:
        """A new revision of the store."""
        for event in changes.events:
            self._take(event.key, event.now)
        if len(self.slots) > self._most():
            self.broken(f"{len(self.slots)} slots are taken of {self._most()}")
        for address in tuple(self.looks):
            self.looks[address] = min(self.looks[address], self._others_out(address))

    def _most(self) -> int:
        """How many may be out together."""
        if self.rollout is not None and self.rollout.state in ("running", "paused"):
            return max(self.rollout.slots, self._today())
        return self._today()

    def _today(self) -> int:
        return slots_of(self.tree.update.max_parallel, machines=max(1, len(self.progress)))

    def _take(self, key: str, now: KeyValue | None) -> None:
        match KEYS.below(key):
            case ("services", _, "slots", number):
                self._slot(number, None if now is None else decode(now.value, Slot, key=key))
            case ("services", _, "endpoints", at):
                self._endpoint(at, None if now is None else decode(now.value, Endpoint, key=key))
            case ("services", _, "progress", address):
                self._set(
                    self.progress, address, None if now is None else decode(now.value, Progress, key=key)
                )
            case ("alive", address):
                (self.alive.discard if now is None else self.alive.add)(address)
                self.note(f"{address} {'is lost' if now is None else 'is alive'}")
            case ("drains", address):
                (self.drains.discard if now is None else self.drains.add)(address)
            case ("deployments", _, "rollout"):
                self.rollout = None if now is None else decode(now.value, Rollout, key=key)
                self.begun |= {self.rollout.id} if self.rollout is not None else set()
                self.note(f"rollout {self.rollout}")
            case _ if key == META and now is not None:
                self.tree = decode(now.value, Tree, key=key)
            case ("services", _, "acks", id, address):
                self.note(f"{address} confirms {id}: {now.value.decode() if now else '-'}")
            case _:
                pass

    def _set(self, where: dict[str, Progress], address: str, progress: Progress | None) -> None:
        self.note(f"progress of {address}: {progress}")
        if progress is None:
            where.pop(address, None)
        else:
            where[address] = progress

    def _slot(self, number: str, slot: Slot | None) -> None:
        before = self.slots.get(number)
        self.note(f"slot {number}: {slot}")
        if slot is not None:
            if before is None or before.machine != slot.machine:
                self.looks[slot.machine] = self._others_out(slot.machine)
            self.slots[number] = slot
            return
        if before is not None:
            del self.slots[number]
            self.looks.pop(before.machine, None)
            if self._is_back(before.machine) or self._may_stay_out(before.machine):
                self.out.discard(before.machine)

    def _endpoint(self, at: str, endpoint: Endpoint | None) -> None:
        self.note(f"endpoint {at}: {endpoint}")
        if endpoint is None:
            self.endpoints.pop(at, None)
            return
        self.endpoints[at] = endpoint
        if not any(slot.machine == endpoint.machine for slot in self.slots.values()):
            self.out -= {endpoint.machine} if self._is_back(endpoint.machine) else set()
        if endpoint.state == "draining" and endpoint.id not in self.marked:
            self.marked[endpoint.id] = self._timeline.now
            self._goes_out(endpoint.machine, "is marked to drain")

    def _is_back(self, address: str) -> bool:
        return self._up(address) >= self.tree.instances

    def _may_stay_out(self, address: str) -> bool:
        """True for who is out for another reason, once it has given its slot back."""
        progress = self.progress.get(address)
        return progress is None or progress.step == "failed" or address in {*self.drains, *self._gone()}

    def _up(self, address: str) -> int:
        return sum(
            endpoint.machine == address and endpoint.state == "up" for endpoint in self.endpoints.values()
        )

    def _lacks(self, address: str) -> bool:
        return address not in self.alive or self._up(address) < self.tree.instances

    def _others_out(self, address: str) -> int:
        """How many others are out; -1 when the machine is out itself, so that nothing gets worse."""
        if self._lacks(address):
            return -1
        gone = self._gone()
        return sum(
            other != address and other not in self.drains and other not in gone and self._lacks(other)
            for other in self.progress
        )

    def _goes_out(self, address: str, what: str) -> None:
        if not any(slot.machine == address for slot in self.slots.values()):
            self.broken(f"{address} {what} without a slot")
        self.out.add(address)
        if len(self.out) > self._most():
            self.broken(f"out because of Orbit: {sorted(self.out)}, and {self._most()} may be")
        least = self.looks.pop(address, -1)
        if least >= self._most():
            self.broken(f"{address} {what} while {least} others are out, and {self._most()} may be")

    # --- the machines --------------------------------------------------------------------------------

    def acts(self, machine: Machine, action: Action) -> None:
        if not isinstance(action, Rest | Wait):
            self.note(f"{machine.address} ({machine.session}): {action}"[:400])

    def stops(self, machine: Machine, own: OwnContainer) -> None:
        container = machine.engine.containers[own.container.id]
        self.note(f"{machine.address} stops {own.container.id} {own.revision} at {container.host_port}")
        self.stopped += 1
        health = machine.health.get(own.run_id)
        is_down = health is not None and health.judged and not health.up
        if not container.was_published:
            if any(one.can_choose(container.host_port) for one in self._reaching()) and container.serves:
                self.broken(
                    f"{container.host_port} was never published, and is stopped while it is routed to"
                )
            return
        if not any(slot.machine == machine.address for slot in self.slots.values()):
            self.broken(f"{machine.address} stops {own.container.id} without a slot")
        flaps = container.behaviour == "flap" and container.host_port not in self.endpoints
        if not container.serves or is_down or flaps:  # withdrawn because it failed, a moment ago
            return
        self._goes_out(machine.address, "stops what serves")
        container.ended_by_orbit, container.unasked = True, frozenset(self._gone())
        for balancer in self._reaching():
            if balancer.can_choose(container.host_port):
                self.broken(f"{container.host_port} is stopped while {balancer.address} may choose it")
        self._sessions(machine, own, container.host_port)

    def _sessions(self, machine: Machine, own: OwnContainer, at: str) -> None:
        if at not in self.endpoints:  # withdrawn, because it failed: that drains nothing
            return
        busy = sum(balancer.sessions_at(at) for balancer in self._reaching())
        standing = machine.standing
        over = standing is not None and standing.out_of_time
        since = self.marked.get(self.endpoints[at].id)
        policies = [self.tree.update, *([self.rollout.policy] if self.rollout else [])]
        patience = min(float(policy.drain_timeout) for policy in policies)
        if busy and not over and (since is None or self._timeline.now - since < patience):
            self.broken(f"{at} is stopped with {busy} sessions, before DrainTimeout")

    def _reaching(self) -> list[Balancer]:
        gone = self._gone()
        return [one for one in self._balancers.values() if one.host_up and one.address not in gone]

    def asked(self, at: str, by: str, leaving: bool) -> None:  # noqa: FBT001 -- a load balancer's own word
        """A request goes to an address.

        A load balancer that was proven gone when the container was stopped, and comes back with the file that
        it had, is not held against the protocol: nobody can ask who is not there.
        """
        self.requests += 1
        machine = self._machines[at.partition(":")[0]]
        container = machine.engine.at(at)
        if (
            container is not None
            and not container.alive
            and container.ended_by_orbit
            and machine.host_up
            and by not in container.unasked
        ):
            of = "a leaving worker" if leaving else "HAProxy"
            self.broken(f"{of} sends a request to {at}, which Orbit has stopped")
