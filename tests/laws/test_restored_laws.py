"""Laws of caution: whatever a backup says, nothing that is known goes for it, and nothing dead comes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from orbitcontrol.model.state import Alive, Endpoint
from orbitcontrol.planning.restored import Doubt, doubt_of, unproven
from orbitcontrol.planning.rotation import Place, Rotation, Sight, everywhere, nowhere, rotate

MACHINES = tuple(f"10.0.0.{n}" for n in range(1, 4))
PORTS = (80, 81)


class Event(Struct, frozen=True, kw_only=True):
    """Something that one machine's daemon does, or that is done to it."""

    kind: Literal["publish", "withdraw", "die", "return"]
    machine: str
    port: int


events = st.lists(
    st.builds(
        Event,
        kind=st.sampled_from(("publish", "publish", "withdraw", "die", "return")),
        machine=st.sampled_from(MACHINES),
        port=st.sampled_from(PORTS),
    ),
    max_size=12,
)


class World:
    """A store that can be put back, and the machines, which cannot."""

    def __init__(self) -> None:
        self.revision = 1
        self.endpoints: dict[str, tuple[Endpoint, int]] = {}
        self.alive: dict[str, tuple[Alive, int]] = {}
        self.sessions: dict[str, str] = {}
        """The sessions of the daemons that really live, by machine."""
        self.withdrawn: set[str] = set()
        """Addresses whose endpoint was taken back since the store was put back."""
        self._number = 0
        for machine in MACHINES:
            self.happens(Event(kind="return", machine=machine, port=80))

    def happens(self, event: Event) -> None:
        machine, address = event.machine, f"{event.machine}:{event.port}"
        session = self.sessions.get(machine)
        self.revision += 1
        match event.kind:
            case "publish" if session:
                self._number += 1
                endpoint = Endpoint(id=str(self._number), machine=machine, session=session)
                self.endpoints[address] = (endpoint, self.revision)
            case "withdraw" if session and address in self.endpoints:
                del self.endpoints[address]
                self.withdrawn.add(address)
            case "die":
                self.sessions.pop(machine, None)  # the lease goes on for a while, and so do its keys
            case "return" if session is None:
                self._number += 1
                self.sessions[machine] = f"session {self._number}"
                self.alive[machine] = (Alive(session=self.sessions[machine], registered=True), self.revision)
                self.endpoints = {
                    address: one for address, one in self.endpoints.items() if one[0].machine != machine
                }
            case _:
                pass

    def restore(self, backup: World) -> None:
        """The store is as it was; machines whose lease it does not know have begun another session."""
        self.revision, self.endpoints, self.alive = (
            backup.revision,
            dict(backup.endpoints),
            dict(backup.alive),
        )
        self.withdrawn = set()
        for machine, session in list(self.sessions.items()):
            if self.alive[machine][0].session != session:
                del self.sessions[machine]  # it waits for the record of the past to end

    def sight(self) -> Sight:
        return Sight(
            revision=self.revision,
            endpoints={"web": {address: endpoint for address, (endpoint, _) in self.endpoints.items()}},
            alive={machine: record for machine, (record, _) in self.alive.items()},
            written={Place("web", address): at for address, (_, at) in self.endpoints.items()},
            spoken={machine: at for machine, (_, at) in self.alive.items()},
        )


def look(world: World, known: dict[str, dict[str, Endpoint]], doubt: Doubt) -> Rotation:
    sight = world.sight()
    return rotate(
        known=known,
        published=sight.endpoints,
        alive=sight.alive,
        confirmed=everywhere,
        unproven=unproven(sight, known=known, doubt=doubt),
    )


@given(before=events, lost=events, between=events, after=events)
@settings(max_examples=400)
def test_in_doubt_nothing_known_goes_but_what_is_withdrawn_and_only_what_lives_comes(
    before: Sequence[Event], lost: Sequence[Event], between: Sequence[Event], after: Sequence[Event]
) -> None:
    world = World()
    for event in before:
        world.happens(event)
    backup = copy.deepcopy(world)
    for event in lost:
        world.happens(event)
    known = rotate(known={}, published=world.sight().endpoints, alive={}, confirmed=nowhere).routes
    world.restore(backup)
    for event in between:
        world.happens(event)
    world.withdrawn = set()
    doubt = doubt_of(world.sight(), known=known)
    trusted = {(address, endpoint.id) for address, endpoint in known["web"].items()}
    assert look(world, known, doubt).routes == known, "the first look changes nothing"
    lived, spoken = set(world.sessions.values()), set[str]()
    for event in after:
        world.happens(event)
        lived |= set(world.sessions.values())
        if event.kind == "return":
            spoken.add(event.machine)
        rotation = look(world, known, doubt)
        gone = known["web"].keys() - rotation.routes["web"].keys()
        assert all(address in world.withdrawn or known["web"][address].machine in spoken for address in gone)
        for address, endpoint in rotation.routes["web"].items():
            assert (address, endpoint.id) in trusted or endpoint.session in lived
        assert look(world, rotation.routes, doubt).routes == rotation.routes, "looking again changes nothing"
        known = rotation.routes
