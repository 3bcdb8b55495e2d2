"""What became of endpoints when HAProxy was changed."""

from __future__ import annotations

from orbitcontrol.codec.haproxy_text import layout
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.route_changes import changes_of, named_in


def endpoint(id: str, **fields: object) -> Endpoint:
    return Endpoint(id=id, machine="m", session="s", **fields)  # type: ignore[arg-type]


def told(before: dict[str, Endpoint], after: dict[str, Endpoint]) -> list[tuple[str, str, str]]:
    changes = changes_of({"web": before}, {"web": after})
    return [(change.step, change.address, change.id) for change in changes]


def test_what_goes_out_comes_first_and_what_stays_is_not_told() -> None:
    before = {"a:1": endpoint("a"), "b:1": endpoint("b")}
    after = {"b:1": endpoint("b"), "c:1": endpoint("c")}
    assert told(before, after) == [("out", "a:1", "a"), ("routed", "c:1", "c")]
    assert told(after, after) == []


def test_another_publication_at_the_same_address_is_routed_to_anew() -> None:
    assert told({"a:1": endpoint("old")}, {"a:1": endpoint("new")}) == [("routed", "a:1", "new")]


def test_other_attributes_and_draining_are_changes_and_another_session_alone_is_none() -> None:
    before = {"a:1": endpoint("a")}
    assert told(before, {"a:1": endpoint("a", attributes={"weight": "2"})}) == [("routed", "a:1", "a")]
    assert told(before, {"a:1": endpoint("a", state="draining")}) == [("draining", "a:1", "a")]
    assert told(before, {"a:1": endpoint("a", ack=True)}) == []


def test_a_service_that_is_not_routed_to_any_more_goes_out() -> None:
    changes = changes_of({"web": {"a:1": endpoint("a")}}, {})
    assert [(change.service, change.step) for change in changes] == [("web", "out")]


def test_only_addresses_that_stand_in_the_configuration_are_routed_to() -> None:
    text = "backend web\n server one a:1 check\n server two ipv4@b:10\n"
    routes = {"web": {address: endpoint("x") for address in ("a:1", "b:1", "b:10")}, "api": {}}
    assert {service: set(entries) for service, entries in named_in(layout(text), routes).items()} == {
        "web": {"a:1", "b:10"},
        "api": set(),
    }
