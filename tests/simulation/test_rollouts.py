"""Rollouts amid random faults, under virtual time, with every invariant checked at each event.

These are the same lives each time, so that a failure says something of the change before it; with
``SEED=… pytest tests/simulation`` and ``make simulate`` others are lived. A life that fails tells its seed.
"""

from __future__ import annotations

import os

import pytest

from orbitcontrol.model.service import Update
from simulation.invariants import Violation
from simulation.scenario import Life
from simulation.shop import Tree
from simulation.variants import BROKEN
from simulation.world import Kinds, World

SEED = os.environ.get("SEED", "1")
LIVES = 20
CHANGES = 3
"""What people change in each life; what they change amid faults comes on top."""
MANY = 50
ENOUGH = 60
"""Lives after which a protocol that is broken would have been found out."""


@pytest.mark.parametrize("life", range(LIVES))
def test_whatever_happens_no_request_is_lost_nobody_too_many_is_out_and_it_ends(life: int) -> None:
    lived(f"{SEED}-{life}")


def lived(seed: str) -> None:
    life = Life(seed)
    try:
        outcome = life.run(rollouts=CHANGES)
    except Violation as violation:
        before = "\n".join(list(life.world.invariants.log)[-400:])
        pytest.fail(f"{before}\nSEED={SEED}: the life {seed} is broken at {violation}", pytrace=False)
    assert outcome.requests


def test_many_machines_replace_their_containers_in_turn() -> None:
    update = Update(max_parallel="10%")
    world = World(SEED, machines=MANY, balancers=2, tree=Tree(update=update))
    world.run_for(60)
    world.people.set_revision("2-good")
    assert world.run_until(
        lambda: world.invariants.rollout is not None and world.invariants.rollout.state == "complete",
        at_most=3600,
    )
    assert {endpoint.revision for endpoint in world.invariants.endpoints.values()} == {"2-good"}
    assert len(world.invariants.endpoints) == MANY


def test_the_same_seed_lives_the_same_life() -> None:
    first, second = (Life(f"{SEED}-again").run(rollouts=1) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("kinds", "reason", "first"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_on_purpose_is_found_out(kinds: Kinds, reason: str, first: int) -> None:
    with pytest.raises(Violation, match=reason):
        _live_on(kinds, first)


def _live_on(kinds: Kinds, first: int) -> None:
    for number in range(first, first + ENOUGH):
        Life(f"broken-{number}", kinds=kinds).run(rollouts=2)
