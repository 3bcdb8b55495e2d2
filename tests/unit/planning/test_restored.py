"""What a load balancer believes of a store that went back."""

from __future__ import annotations

import pytest
from msgspec import structs

from orbitcontrol.model.state import Alive, Endpoint
from orbitcontrol.model.stored import KeyValue, Reading
from orbitcontrol.planning.restored import Doubt, doubt_of, everything, rewritten, unproven
from orbitcontrol.planning.rotation import Place, Sight, everywhere, rotate

A, B = "10.0.0.1:80", "10.0.0.2:80"
WEB_A = Place("web", A)
OLD = Endpoint(id="1", machine="10.0.0.1", session="s1")
KNOWN = Endpoint(id="2", machine="10.0.0.1", session="s1")
NOW = 50
"""The store's revision when it was read first."""


def key(revision: int, name: str = "k") -> KeyValue:
    return KeyValue(key=name, value=b"", mod_revision=revision)


@pytest.mark.parametrize(
    ("case", "known", "listed", "revision", "back"),
    [
        ("nothing happened", [key(3)], [key(3)], 9, False),
        ("the key was written since", [key(3)], [key(12)], 12, False),
        ("the key was deleted since", [key(3)], [], 12, False),
        ("another key came since", [], [key(12)], 12, False),
        ("the revision is lower", [key(3)], [key(3)], 8, True),
        ("the key is older than it was, others have written since", [key(7)], [key(3)], 20, True),
        ("a key that was gone is back, others have written since", [], [key(3)], 20, True),
        ("the key was written anew at a revision that was over", [key(3)], [key(8)], 20, True),
    ],
)
def test_a_listing_that_cannot_follow_on_what_was_seen_is_of_a_store_that_went_back(
    case: str, known: list[KeyValue], listed: list[KeyValue], revision: int, *, back: bool
) -> None:
    listing = Reading(revision, (tuple(listed),))
    assert rewritten({one.key: one for one in known}, at=9, listing=listing) is back, case


def sight(
    endpoint: Endpoint | None = OLD, *, session: str = "s1", written: int = 20, spoken: int = 10
) -> Sight:
    """One endpoint, and its machine with this session."""
    return Sight(
        revision=60,
        endpoints={"web": {A: endpoint}},
        alive={"10.0.0.1": Alive(session=session, registered=True)},
        written={WEB_A: written},
        spoken={"10.0.0.1": spoken},
    )


@pytest.mark.parametrize(
    ("case", "seen", "believed"),
    [
        ("all of it is of the backup", sight(), False),
        ("it was written since", sight(written=51), True),
        ("its machine has spoken since", sight(spoken=51), True),
        ("it was written by the very reading's revision", sight(written=NOW), False),
        ("it was written since, and its machine is another session", sight(session="s2", written=51), False),
        ("another session has spoken since", sight(session="s2", spoken=51), False),
        (
            "it was written since, and nobody is alive there",
            structs.replace(sight(written=51), alive={}, spoken={}),
            False,
        ),
    ],
)
def test_a_new_endpoint_counts_when_its_session_is_alive_and_one_of_both_was_written_since(
    case: str, seen: Sight, *, believed: bool
) -> None:
    for known in ({}, {"web": {A: KNOWN}}):
        doubted = unproven(seen, known=known, doubt=Doubt(since=NOW, lost=frozenset()))
        assert doubted == (set() if believed else {WEB_A}), case


def test_what_is_in_the_store_as_it_was_known_is_no_doubt() -> None:
    doubt = Doubt(since=NOW, lost=frozenset())
    assert unproven(sight(KNOWN), known={"web": {A: KNOWN}}, doubt=doubt) == set()
    assert unproven(sight(None), known={"web": {A: KNOWN}}, doubt=doubt) == set(), "nor what nobody can read"


def test_only_what_was_missing_in_the_first_reading_is_missed_and_only_until_its_machine_speaks() -> None:
    known = {"web": {A: KNOWN, B: structs.replace(KNOWN, machine="10.0.0.2")}}
    first = structs.replace(sight(), endpoints={"web": {B: known["web"][B]}}, revision=NOW)
    doubt = doubt_of(first, known=known)
    assert doubt == Doubt(since=NOW, lost=frozenset({WEB_A}))
    later = structs.replace(first, endpoints={"web": {}}, revision=60)
    assert unproven(later, known=known, doubt=doubt) == {WEB_A}, "the other one was deleted since"
    assert unproven(structs.replace(later, spoken={"10.0.0.1": 51}), known=known, doubt=doubt) == set()


def test_while_such_a_store_cannot_be_read_nothing_in_it_counts() -> None:
    seen = structs.replace(sight(), endpoints={"web": {A: OLD}, "api": {}})
    known = {"web": {B: KNOWN}, "api": {A: KNOWN}}
    assert everything(seen, known=known) == {WEB_A, Place("web", B), Place("api", A)}


def test_of_unproven_places_what_was_known_stays_and_nothing_is_added() -> None:
    live = {"10.0.0.1": Alive(session="s1", registered=True)}
    known = {"web": {A: KNOWN, "10.0.0.1:81": KNOWN}}
    published = {"web": {A: OLD, B: OLD}, "api": {"10.0.0.1:81": OLD}}
    doubted = everything(Sight(endpoints=published, alive=live), known=known)
    rotation = rotate(known=known, published=published, alive=live, confirmed=everywhere, unproven=doubted)
    assert rotation.routes == {"web": known["web"], "api": {}}
    assert rotation.unproven == {WEB_A, Place("web", B), Place("api", "10.0.0.1:81")}
    assert rotation.orphans == {Place("web", "10.0.0.1:81")}
    assert not rotation.unreadable
    assert not rotation.withdrawn
    assert not rotation.replaced
    assert not rotation.is_published(WEB_A)
