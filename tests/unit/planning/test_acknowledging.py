"""What a load balancer may tell of an endpoint, and what it may not tell yet."""

from __future__ import annotations

import pytest

from orbitcontrol.codec.haproxy_stat import StatRow
from orbitcontrol.codec.haproxy_text import layout
from orbitcontrol.model.rollouts import Ack
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning import rotation
from orbitcontrol.planning.acknowledging import (
    DRAINED,
    ROUTED,
    Asked,
    InForce,
    Written,
    asked_for,
    drained,
    obsolete,
    places_of,
    rows_of,
    servers_at,
    sessions_in,
    unanswered,
    why_not_routed,
    why_reachable,
)
from orbitcontrol.planning.servers import Leaving, Place

A = "10.0.0.1:80"
PLACE = Place("web", "a")
UP, DRAINING = Asked("web", A, "1", draining=False), Asked("web", A, "1", draining=True)


def endpoint(publication: str = "1", *, state: str = "up", ack: bool = True) -> Endpoint:
    return Endpoint(id=publication, machine="10.0.0.1", session="s", state=state, ack=ack)  # type: ignore[arg-type]


def text(line: str) -> str:
    return f"backend web\n    server a {line}\n    server b 10.0.0.2:80\n"


def row(status: str, *, check: str = "", sessions: int = 0, queued: int = 0, address: str = A) -> StatRow:
    return StatRow(
        proxy="web",
        server="a",
        kind="server",
        status=status,
        check=check,
        sessions=sessions,
        queued=queued,
        address=address,
    )


def not_routed(line: str, *rows: StatRow, settled: bool = True) -> str:
    servers = servers_at(layout(text(line)), [A])[A]
    return why_not_routed(servers, rows_of(UP, places_of(UP, servers, {}), rows), settled=settled)


def test_only_endpoints_that_ask_for_it_in_services_of_ours_are_answered() -> None:
    published: dict[str, dict[str, Endpoint | None]] = {
        "web": {A: endpoint(), "10.0.0.2:80": endpoint("2", ack=False), "10.0.0.3:80": None},
        "api": {A: endpoint("3")},
    }
    assert asked_for(published, {"web"}) == {UP}
    published["web"][A] = endpoint(state="draining")
    assert asked_for(published, {"web"}) == {DRAINING}


def test_what_was_told_is_told_once_and_another_state_is_another_question() -> None:
    key = Written("web", "1")
    assert unanswered([UP], {}) == {UP}
    assert unanswered([UP], {key: ROUTED}) == frozenset()
    assert unanswered([DRAINING], {key: ROUTED}) == {DRAINING}
    assert unanswered([DRAINING], {key: Ack(step="drained", sessions=2)}) == {DRAINING}
    assert unanswered([DRAINING], {key: DRAINED}) == frozenset()


def test_an_acknowledgement_is_taken_back_when_its_publication_is_gone_and_not_for_lack_of_knowledge() -> (
    None
):
    acks = {Written("web", "1"), Written("api", "2")}
    both = {"web", "api"}
    assert obsolete(acks, published={"web": {A: endpoint()}}, services=both) == frozenset()
    assert obsolete(acks, published={"web": {A: endpoint("9")}}, services=both) == {Written("web", "1")}
    assert obsolete(acks, published={"web": {}, "api": {}}, services=both) == acks
    assert obsolete(acks, published={"web": {A: None}}, services=both) == frozenset()
    assert obsolete(acks, published={}, services={"web"}) == {Written("api", "2")}
    assert obsolete(acks, published={"web": {A: endpoint(ack=False)}}, services=both) == frozenset()


@pytest.mark.parametrize(
    ("known", "takes_up", "takes_draining"),
    [
        ({"web": {A: endpoint()}}, True, False),
        ({"web": {A: endpoint(state="draining")}}, False, True),
        ({"web": {A: endpoint("9")}}, False, False),
        ({"web": {}}, False, False),
        ({}, False, False),
    ],
)
def test_a_configuration_answers_for_the_publications_and_states_that_it_was_made_with(
    known: dict[str, dict[str, Endpoint]], *, takes_up: bool, takes_draining: bool
) -> None:
    found = InForce(text="", layout=layout(""), routes=known)
    assert (found.has_taken(UP), found.has_taken(DRAINING)) == (takes_up, takes_draining)


def test_what_this_machine_knows_to_have_failed_is_not_said_to_be_routed_to() -> None:
    unfit = frozenset({rotation.Place("web", A)})
    found = InForce(text="", layout=layout(""), routes={"web": {A: endpoint()}}, unfit=unfit)
    assert not found.has_taken(UP)


@pytest.mark.parametrize(
    ("line", "status", "check", "reason"),
    [
        (A, "no check", "", ""),
        (A, "MAINT", "", "in maintenance"),
        (A, "DRAIN", "", "is DRAIN"),
        (f"{A} weight 0", "DRAIN", "", ""),
        (f"{A} check", "UP", "INI", "own check: INI"),
        (f"{A} check", "UP", "", "own check: no check yet"),
        (f"{A} check", "UP", "L4OK", ""),
        (f"{A} check", "UP 1/3", "* L7OKC", ""),
        (f"{A} check", "DOWN", "L4CON", "own check: L4CON"),
        (f"{A} check", "DOWN 1/2", "L7OK", "is DOWN 1/2"),
        (f"{A} check weight 0", "DRAIN", "L7OK", ""),
        (f"{A} agent-check agent-port 1", "DRAIN (agent)", "", ""),
        (f"{A} track b/b", "DOWN (via b/b)", "", "is DOWN"),
    ],
)
def test_an_endpoint_is_routed_to_when_every_server_of_it_gets_sessions(
    line: str, status: str, check: str, reason: str
) -> None:
    found = not_routed(line, row(status, check=check))
    assert reason in found
    assert bool(found) is bool(reason)


def test_a_server_that_haproxy_does_not_have_yet_or_that_is_disabled_in_the_template() -> None:
    assert "does not have server web/a yet" in not_routed(A)
    assert not_routed(f"{A} disabled") == ""


def test_what_has_no_server_is_routed_to_once_the_wanted_template_has_been_judged() -> None:
    assert not_routed("10.0.0.9:80") == ""
    assert "not applied yet" in not_routed("10.0.0.9:80", settled=False)


def test_one_of_two_servers_is_not_enough() -> None:
    both = layout(f"backend web\n    server a {A}\nbackend other\n    server a {A}\n")
    servers = servers_at(both, [A])[A]
    assert set(servers) == {PLACE, Place("other", "a")}
    assert "other/a" in why_not_routed(servers, {PLACE: row("no check")}, settled=True)


def test_without_a_runtime_socket_the_file_is_believed_as_far_as_it_can_say() -> None:
    for line, expected in ((A, ""), (f"{A} check", "does not tell whether web/a passes")):
        found = why_not_routed(servers_at(layout(text(line)), [A])[A], None, settled=True)
        assert found.startswith(expected) if not expected else expected in found


def test_servers_are_found_by_their_address_whoever_wrote_their_lines() -> None:
    mine = layout(f"backend web\n    server nocheck-a ipv4@{A}\n    server-template t 2 {A}\n")
    assert set(servers_at(mine, [A])[A]) == {Place("web", "nocheck-a")}


def test_a_drain_is_one_when_nothing_new_can_come_to_any_server_of_it() -> None:
    assert why_reachable([], {}) == ""
    for status in ("MAINT", "DRAIN", "MAINT (resolution)"):
        assert why_reachable([], {PLACE: row(status)}) == ""
    assert "web/a still gets sessions" in why_reachable([], {PLACE: row("UP")})
    assert "web/a of its own" in why_reachable([PLACE], {PLACE: row("MAINT")})


def test_servers_on_their_way_out_are_found_by_their_line_where_haproxy_tells_no_address() -> None:
    line = layout(text(A)).sections["web"].servers["a"]
    leaving = {
        PLACE: Leaving(line=line, state="drain", since=0),
        Place("web", "b"): Leaving(line=None, state="maint", since=0),
    }
    assert places_of(DRAINING, [], leaving) == {PLACE}
    rows = [
        row("DRAIN", sessions=2, queued=1, address=""),
        StatRow(proxy="web", server="b", kind="server", sessions=5),
    ]
    mine = rows_of(DRAINING, {PLACE}, rows)
    assert set(mine) == {PLACE}
    assert sessions_in(mine) == 3


@pytest.mark.parametrize(
    ("before", "sessions", "told"),
    [
        (None, 3, Ack(step="drained", sessions=3)),
        (None, 0, DRAINED),
        (ROUTED, 3, Ack(step="drained", sessions=3)),
        (ROUTED, 0, DRAINED),
        (Ack(step="drained", sessions=3), 2, None),
        (Ack(step="drained", sessions=3), 4, None),
        (Ack(step="drained", sessions=3), 0, DRAINED),
        (DRAINED, 0, None),
    ],
)
def test_of_the_sessions_left_the_first_number_is_told_and_their_end(
    before: Ack | None, sessions: int, told: Ack | None
) -> None:
    assert drained(before, sessions=sessions) == told
