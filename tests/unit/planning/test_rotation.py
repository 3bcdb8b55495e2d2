"""Gone is not the same as withdrawn: which endpoints a load balancer goes on knowing."""

from __future__ import annotations

import pytest

from orbitcontrol.model.state import Alive, Endpoint
from orbitcontrol.planning.rotation import (
    Place,
    Published,
    Rotation,
    Routes,
    everywhere,
    rotate,
    with_unlisted,
    without,
)

A, B = "10.0.0.1:80", "10.0.0.2:80"
OURS = Endpoint(id="1", machine="10.0.0.1", session="s1")
NEWER = Endpoint(id="2", machine="10.0.0.1", session="s2")


def confirmed(known: Routes, published: Published, alive: dict[str, Alive] | None = None) -> Rotation:
    """The rotation when everything comes from one reading of the store."""
    return rotate(known=known, published=published, alive=alive or {}, confirmed=everywhere)


def test_what_is_published_is_routed_to_with_its_newest_value() -> None:
    rotation = confirmed({"web": {A: OURS}}, {"web": {A: NEWER, B: OURS}})
    assert rotation.routes == {"web": {A: NEWER, B: OURS}}


@pytest.mark.parametrize(
    ("case", "alive", "stays"),
    [
        ("its machine is unknown", {}, True),
        ("another machine is alive", {"10.0.0.2": Alive(session="x", registered=True)}, True),
        ("a new session still registers", {"10.0.0.1": Alive(session="s2")}, True),
        ("a new session has registered", {"10.0.0.1": Alive(session="s2", registered=True)}, False),
        ("its own session is alive", {"10.0.0.1": Alive(session="s1")}, False),
    ],
)
def test_an_absent_endpoint_is_withdrawn_only_by_a_machine_that_could_have_published_it(
    case: str, alive: dict[str, Alive], *, stays: bool
) -> None:
    rotation = confirmed({"web": {A: OURS}}, {"web": {}}, alive)
    assert rotation.routes == {"web": {A: OURS} if stays else {}}, case
    assert rotation.orphans == ({Place("web", A)} if stays else set())
    assert rotation.withdrawn == (set() if stays else {Place("web", A)})


def test_a_withdrawal_that_no_single_reading_shows_is_only_suspected() -> None:
    rotation = rotate(
        known={"web": {A: OURS}, "api": {B: OURS}},
        published={"web": {}, "api": {}},
        alive={"10.0.0.1": Alive(session="s1")},
        confirmed=lambda place: place.service == "api",
    )
    assert rotation.routes == {"web": {A: OURS}, "api": {}}
    assert rotation.suspected == rotation.orphans == {Place("web", A)}
    assert rotation.withdrawn == {Place("api", B)}


def test_an_address_that_now_belongs_to_another_service_is_out() -> None:
    rotation = confirmed({"web": {A: OURS}}, {"web": {}, "api": {A: NEWER}})
    assert rotation.routes == {"web": {}, "api": {A: NEWER}}
    assert rotation.replaced == {Place("web", A)}


def test_an_unreadable_value_keeps_what_was_known_and_adds_nothing() -> None:
    rotation = confirmed({"web": {A: OURS}}, {"web": {A: None, B: None}})
    assert rotation.routes == {"web": {A: OURS}}
    assert rotation.unreadable == {Place("web", A), Place("web", B)}


def test_an_unreadable_value_takes_no_address_from_another_service() -> None:
    rotation = confirmed({"web": {A: OURS}}, {"web": {}, "api": {A: None}})
    assert rotation.routes["web"] == {A: OURS}


def test_a_service_that_was_never_listed_has_no_routes() -> None:
    assert confirmed({"web": {A: OURS}}, {}).routes == {}


def test_published_is_what_the_store_has_and_can_be_read() -> None:
    c = "10.0.0.3:80"
    rotation = confirmed({"web": {B: OURS, c: OURS}}, {"web": {A: OURS, c: None}})
    assert [rotation.is_published(Place("web", address)) for address in (A, B, c, "other")] == [
        True,
        False,
        False,
        False,
    ]


def test_an_orphan_whose_time_is_over_is_out_and_named() -> None:
    rotation = confirmed({"web": {A: OURS}}, {"web": {B: OURS}})
    ended = without(rotation, frozenset({Place("web", A)}))
    assert ended.routes == {"web": {B: OURS}}
    assert ended.orphans == set()
    assert ended.timed_out == {Place("web", A)}


def test_what_the_store_has_not_told_of_stays_as_it_was_known_and_orphans_stay_orphans() -> None:
    known = {"web": {A: OURS}, "api": {A: OURS, B: OURS}}
    rotation = confirmed(known, {"web": {A: NEWER}})
    gone = {Place("api", B), Place("web", A), Place("api", "10.0.0.9:80")}
    whole = with_unlisted(rotation, known=known, orphans=gone)
    assert whole.routes == {"web": {A: NEWER}, "api": known["api"]}
    assert whole.orphans == {Place("api", B)}
    assert whole.unlisted == {"api"}
    assert whole.is_published(Place("web", A))
    assert not whole.is_published(Place("api", A))
