from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET, structs

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.model.rollouts import Aim, Past, Rollout, State
from orbitcontrol.model.service import Update
from orbitcontrol.model.stored import Delete, KeyValue, Put
from orbitcontrol.planning.rollout_records import KEPT, Scope, begun, operations_of, past_of, trimmed

KEYS = Keys()
R1, R2, R3 = (Aim(revision=f"R{number}", serial=number, generation=4) for number in (1, 2, 3))


def rollout(state: State = "running", machines: Scope = UNSET, previous: Aim | None = R1) -> Rollout:
    return Rollout(
        id="old", cause="revision", machines=machines, target=R2, previous=previous, state=state, user="alice"
    )


def begin(present: Rollout | None, scope: Scope = UNSET, *, live: int = 8, **policy: Any) -> Rollout:
    return begun(
        id="new",
        cause="revision",
        scope=scope,
        target=R3,
        standing=R2,
        present=present,
        policy=Update(**policy),
        live=live,
        user="bob",
        started="2026-01-01T00:01:30Z",
    )


@pytest.mark.parametrize(
    ("what", "present", "scope", "machines"),
    [
        ("nothing before it", None, ("a",), ("a",)),
        ("others owe the one that runs", rollout(), ("a",), UNSET),
        ("others owe the one that is paused", rollout("paused"), ("a",), UNSET),
        ("nobody owes one that failed", rollout("failed"), ("a",), ("a",)),
        ("nobody owes one that is complete", rollout("complete"), ("a",), ("a",)),
        ("another machine owes its own", rollout(machines=("b",)), ("a",), ("a", "b")),
        ("another machine's own is over", rollout("complete", ("b",)), ("a",), ("a",)),
        ("one for all is for all", rollout(machines=("b",)), UNSET, UNSET),
    ],
)
def test_a_rollout_is_also_for_those_that_owe_the_one_it_supersedes(
    what: str, present: Rollout | None, scope: Scope, machines: Scope
) -> None:
    assert begin(present, scope).machines == machines, what


@pytest.mark.parametrize(
    ("what", "present", "scope", "previous"),
    [
        ("nothing before it", None, UNSET, R2),
        ("the one before it was completed", rollout("complete"), UNSET, R2),
        ("what runs was not completed", rollout(), UNSET, R1),
        ("what is paused was not completed", rollout("paused"), ("a",), R1),
        ("what failed was not completed", rollout("failed"), UNSET, R1),
        ("nothing was ever completed", rollout(previous=None), UNSET, None),
        ("the same machine's was not completed", rollout(machines=("a",)), ("a",), R1),
        ("one machine's way back is not everybody's", rollout(machines=("a",)), UNSET, R2),
        ("one machine's way back is not another's", rollout(machines=("b",)), ("a",), R2),
    ],
)
def test_the_way_back_leads_to_what_was_completed_last(
    what: str, present: Rollout | None, scope: Scope, previous: Aim | None
) -> None:
    assert begin(present, scope).previous == previous, what


@pytest.mark.parametrize(
    ("max_parallel", "scope", "live", "slots"),
    [
        (3, UNSET, 8, 3),
        ("25%", UNSET, 8, 2),
        ("25%", UNSET, 3, 1),
        ("50%", UNSET, 0, 1),
        ("50%", ("a", "b", "c", "d"), 100, 2),
    ],
)
def test_how_many_may_be_out_is_fixed_from_the_machines_that_take_part(
    max_parallel: int | str, scope: Scope, live: int, slots: int
) -> None:
    assert begin(None, scope, live=live, max_parallel=max_parallel).slots == slots


def test_the_end_of_a_rollout_says_what_it_was_and_how_long_it_took() -> None:
    present = structs.replace(rollout(), started="2026-01-01T00:00:00Z", reason="slow", revert_of="x")
    past = past_of(present, outcome="failed", ended="2026-01-01T00:01:30.500Z")
    assert (past.id, past.target, past.previous, past.outcome) == ("old", R2, R1, "failed")
    assert (past.seconds, past.reason, past.revert_of, past.user) == (90.5, "slow", "x", "alice")
    assert past_of(structs.replace(present, started=""), outcome="failed", ended="now").seconds == 0


def history(count: int) -> list[KeyValue]:
    """So many entries, the oldest first, with keys that say nothing about their age."""
    entries = []
    for number in range(count):
        past = Past(
            id=f"{number * 700 % 1009:04d}",
            cause="revision",
            target=R1,
            outcome="complete",
            ended="",
            seconds=0,
        )
        key = KEYS.past_rollout("web", past.id)
        entries.append(KeyValue(key=key, value=encode(past), mod_revision=100 + number))
    return entries


def test_the_history_keeps_the_newest() -> None:
    entries = history(KEPT + 3)
    assert trimmed(entries) == tuple(entry.key for entry in entries[:3])
    assert trimmed(entries[:KEPT], adding=1) == (entries[0].key,)
    assert trimmed(entries[: KEPT - 1], adding=1) == ()
    assert 0 < len(trimmed(history(KEPT + 500))) < 100, "one transaction must not become too large"


@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_rollout_that_is_superseded_ends_in_the_history(state: State) -> None:
    present, entries = rollout(state), history(KEPT)
    new = begin(present)
    put, past, *deletes = operations_of(KEYS, "web", new, present=present, history=entries)
    assert isinstance(put, Put)
    assert (put.key, decode(put.value, Rollout, key="")) == (KEYS.rollout("web"), new)
    assert isinstance(past, Put)
    assert past.key == KEYS.past_rollout("web", "old")
    ended = decode(past.value, Past, key="")
    assert (ended.outcome, ended.reason) == ("superseded", "rollout new (revision) was begun by bob")
    assert [entries[0].key in delete.range for delete in deletes if isinstance(delete, Delete)] == [True]


@pytest.mark.parametrize("present", [None, rollout("complete"), rollout("failed")])
def test_a_rollout_that_was_over_has_its_end_in_the_history_already(present: Rollout | None) -> None:
    [put] = operations_of(KEYS, "web", begin(present), present=present, history=[])
    assert isinstance(put, Put)
