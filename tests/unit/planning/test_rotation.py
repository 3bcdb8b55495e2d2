"""Gone is not the same as withdrawn: which endpoints a load balancer goes on routing to."""

from __future__ import annotations

import pytest

from orbitcontrol.model.state import Alive, Endpoint
from orbitcontrol.planning.rotation import Place, rotate, serving

A, B = "10.0.0.1:80", "10.0.0.2:80"
OURS = Endpoint(id="1", machine="10.0.0.1", session="s1")
NEWER = Endpoint(id="2", machine="10.0.0.1", session="s2")


def test_what_is_published_is_routed_to_with_its_newest_value() -> None:
    rotation = rotate(known={"web": {A: OURS}}, published={"web": {A: NEWER, B: OURS}}, alive={})
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
    rotation = rotate(known={"web": {A: OURS}}, published={"web": {}}, alive=alive)
    assert rotation.routes == {"web": {A: OURS} if stays else {}}, case
    assert rotation.orphans == ({Place("web", A)} if stays else set())
    assert rotation.withdrawn == (set() if stays else {Place("web", A)})


def test_an_address_that_now_belongs_to_another_service_is_out() -> None:
    rotation = rotate(known={"web": {A: OURS}}, published={"web": {}, "api": {A: NEWER}}, alive={})
    assert rotation.routes == {"web": {}, "api": {A: NEWER}}
    assert rotation.replaced == {Place("web", A)}


def test_an_unreadable_value_keeps_what_was_known_and_adds_nothing() -> None:
    rotation = rotate(known={"web": {A: OURS}}, published={"web": {A: None, B: None}}, alive={})
    assert rotation.routes == {"web": {A: OURS}}
    assert rotation.unreadable == {Place("web", A), Place("web", B)}


def test_an_unreadable_value_takes_no_address_from_another_service() -> None:
    rotation = rotate(known={"web": {A: OURS}}, published={"web": {}, "api": {A: None}}, alive={})
    assert rotation.routes["web"] == {A: OURS}


def test_a_service_that_was_never_listed_has_no_routes() -> None:
    assert rotate(known={"web": {A: OURS}}, published={}, alive={}).routes == {}


def test_draining_endpoints_are_known_and_get_nothing_new() -> None:
    draining = Endpoint(id="1", machine="m", session="s", state="draining")
    rotation = rotate(known={}, published={"web": {A: draining, B: OURS}}, alive={})
    assert rotation.routes == {"web": {A: draining, B: OURS}}
    assert serving(rotation.routes) == {"web": {B: OURS}}


def test_rotating_again_changes_nothing() -> None:
    alive = {"10.0.0.2": Alive(session="x", registered=True)}
    published = {"web": {B: OURS}}
    once = rotate(known={"web": {A: OURS}}, published=published, alive=alive)
    assert rotate(known=once.routes, published=published, alive=alive) == once
