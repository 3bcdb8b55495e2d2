"""Protocols that are broken on purpose: a simulation that finds nothing wrong with them proves nothing."""

from __future__ import annotations

from msgspec import structs

from orbitcontrol.model.rollouts import Rollout
from orbitcontrol.model.stored import Absent, Compare, Delete, KeyValue, Operation, Put, Range, Unchanged
from orbitcontrol.planning.rollout_aims import active, outdated
from orbitcontrol.planning.rollout_steps import Plan
from orbitcontrol.planning.rollout_writes import Stamp, Transaction, Writing
from orbitcontrol.planning.rollouts import Local, Shared
from simulation.balancer import Balancer
from simulation.daemon import KEYS
from simulation.machine import Machine
from simulation.shop import SERVICE
from simulation.world import Kinds

_SLOTS = KEYS.slots(SERVICE)
_MANY = 100


class Unconfirmed(Machine):
    """Stops a container as soon as it is marked, whatever load balancers say."""

    def planned(self, local: Local, shared: Shared) -> Plan:
        return super().planned(local, structs.replace(shared, balancers={}))


class Hasty(Balancer):
    """Confirms a drain although workers that leave may still choose the server."""

    def all_leaving_are_quiet(self, address: str) -> bool:
        return True


class Leased(Machine):
    """Holds its slot under its lease: who loses that has not been taken out, it says."""

    def transaction(
        self,
        action: Writing,
        local: Local,
        shared: Shared,
        stamp: Stamp,
        deployments: tuple[KeyValue, ...],
    ) -> Transaction:
        made = super().transaction(action, local, shared, stamp, deployments)
        operations = tuple(self._leased(each) for each in made.operations)
        return structs.replace(made, operations=operations)

    def _leased(self, operation: Operation) -> Operation:
        if isinstance(operation, Put) and operation.key in _SLOTS:
            return structs.replace(operation, lease=self.lease)
        return operation


class DrainsLate(Machine):
    """Stops first, and tells load balancers afterwards, by withdrawing the endpoint."""

    def planned(self, local: Local, shared: Shared) -> Plan:
        olds = {own.run_id for own in outdated(local, local.target)}
        endpoints = {run: one for run, one in local.endpoints.items() if run not in olds}
        return super().planned(structs.replace(local, endpoints=endpoints, fresh=frozenset(olds)), shared)


class SlotsOfEach(Machine):
    """Takes a slot of a set that each rollout, and whatever else stops something, has for itself."""

    def planned(self, local: Local, shared: Shared) -> Plan:
        return super().planned(local, self._own(local, shared))

    def transaction(
        self,
        action: Writing,
        local: Local,
        shared: Shared,
        stamp: Stamp,
        deployments: tuple[KeyValue, ...],
    ) -> Transaction:
        first = self._first(local, shared)
        made = super().transaction(action, local, self._own(local, shared), stamp, deployments)
        return Transaction(
            tuple(self._compare(each, first) for each in made.compares),
            tuple(self._operation(each, first) for each in made.operations),
        )

    def _first(self, local: Local, shared: Shared) -> int:
        """The first number of the set in question: of the slot in hand, or of the rollout."""
        mine = shared.held_by(local.address)
        if mine is not None:
            return mine[0] // _MANY * _MANY
        rollout: Rollout | None = active(local, shared)
        return 0 if rollout is None else int(rollout.id[1:]) % 90 * _MANY + _MANY

    def _own(self, local: Local, shared: Shared) -> Shared:
        first = self._first(local, shared)
        slots = {
            number - first: held for number, held in shared.slots.items() if first <= number < first + _MANY
        }
        return structs.replace(shared, slots=slots)

    def _key(self, key: str, first: int) -> str:
        return KEYS.slot(SERVICE, int(key.rpartition("/")[2]) + first) if key in _SLOTS else key

    def _compare(self, compare: Compare, first: int) -> Compare:
        match compare:
            case Unchanged(key=key, mod_revision=revision):
                return Unchanged(self._key(key, first), revision)
            case Absent(range=range) if range.start in _SLOTS and range.end == _SLOTS.end:
                start = self._key(range.start, first)
                return Absent(Range(start, KEYS.slot(SERVICE, first + _MANY)))
            case Absent(range=range) if range.start in _SLOTS:
                return Absent(Range.single(self._key(range.start, first)))
        return compare

    def _operation(self, operation: Operation, first: int) -> Operation:
        match operation:
            case Put(key=key):
                return structs.replace(operation, key=self._key(key, first))
            case Delete(range=range) if range.start in _SLOTS:
                return Delete(Range.single(self._key(range.start, first)))
        return operation


_CHOSEN = "may choose it|which Orbit has stopped|sessions, before DrainTimeout"
_TOO_MANY = "out because of Orbit|slots are taken of|while . others are out|without a slot"

BROKEN = {
    "a stop without confirmation": (Kinds(machine=Unconfirmed), _CHOSEN, 0),
    "a confirmation before leaving workers are quiet": (Kinds(balancer=Hasty), _CHOSEN, 0),
    "slots that end with a lease": (Kinds(machine=Leased), _TOO_MANY, 19),
    "slots of each rollout instead of each service": (Kinds(machine=SlotsOfEach), _TOO_MANY, 0),
    "a drain after the stop": (Kinds(machine=DrainsLate), _CHOSEN, 0),
}
"""Each with what has to be found wrong with it, and the number of the life to begin with, to save time."""
