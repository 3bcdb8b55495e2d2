"""The way of an endpoint's last change, put together from what the machines tell."""

from __future__ import annotations

from typing import Any

from orbitcontrol.model.state import Endpoint, EndpointChange, MachineRecord, Problem
from orbitcontrol.planning.rotation import Place
from orbitcontrol.planning.ways import Stored, Way, places_of, way_of

PLACE = Place("web", "10.0.0.5:80")
OWN, ONE, TWO = "10.0.0.5", "10.0.0.1", "10.0.0.2"


def change(step: str, id: str, second: int, **fields: Any) -> EndpointChange:
    at = f"2026-01-01T00:00:{second:02}.000Z"
    return EndpointChange(service="web", endpoint=PLACE.address, id=id, step=step, at=at, **fields)


def balancer(*changes: EndpointChange, **fields: Any) -> MachineRecord:
    return MachineRecord(balances=("web",), changes=changes, **fields)


def way(
    own: list[EndpointChange], stored: str = "", gone: tuple[str, ...] = (), **others: MachineRecord
) -> Way:
    """The way that these records tell; ``one`` and ``two`` are load balancers."""
    records = {OWN: MachineRecord(changes=tuple(own))}
    records |= {{"one": ONE, "two": TWO}[name]: record for name, record in others.items()}
    endpoint = Endpoint(id=stored, machine=OWN, session="s")
    return way_of(
        PLACE,
        stored=Stored(endpoint, 77) if stored else None,
        records=records,
        alive=records.keys() - set(gone),
    )


def told(found: Way) -> list[tuple[str, str]]:
    return [(step.machine, step.step) for step in found.steps]


PROVEN, PUBLISHED = change("proven", "a", 1, reason="checks passed"), change("published", "a", 2, revision=7)
FAILED = change("failed", "a", 11, reason="status 500")
WITHDRAWN = change("withdrawn", "a", 12, revision=9)


def test_from_the_check_through_the_store_to_each_load_balancer() -> None:
    found = way([PROVEN, PUBLISHED], "a", one=balancer(change("routed", "a", 3)), two=balancer())
    assert told(found) == [(OWN, "proven"), (OWN, "published"), (ONE, "routed"), (TWO, "waiting")]
    assert [step.milliseconds for step in found.steps] == [0, 1000, 2000, 0]
    assert [step.revision for step in found.steps] == [0, 7, 0, 0]
    assert (found.id, found.state) == ("a", "up")
    assert "not yet applied" in found.steps[-1].reason


def test_a_load_balancer_of_another_service_is_not_waited_for() -> None:
    found = way([PUBLISHED], "a", one=MachineRecord(balances=("api",)))
    assert told(found) == [(OWN, "published")]


def test_causes_come_before_effects_also_when_clocks_differ() -> None:
    early = balancer(change("routed", "a", 0))
    found = way([PROVEN, PUBLISHED], "a", one=early)
    assert told(found) == [(OWN, "proven"), (OWN, "published"), (ONE, "routed")]
    assert found.steps[-1].milliseconds == -1000


def test_a_withdrawal_is_told_without_the_publication_before_it() -> None:
    own = [PROVEN, PUBLISHED, FAILED, WITHDRAWN]
    routed = change("routed", "a", 3)
    found = way(own, one=balancer(routed, change("out", "a", 13)), two=balancer(routed))
    assert told(found) == [(OWN, "failed"), (OWN, "withdrawn"), (ONE, "out"), (TWO, "waiting")]
    assert (found.id, found.state) == ("a", "")
    assert found.steps[-1].reason == "not yet applied"
    assert found.steps[0].reason == "status 500"


def test_who_never_routed_to_it_is_not_said_to_be_behind() -> None:
    [*_, last] = way([WITHDRAWN], one=balancer()).steps
    assert (last.step, "never routed to it" in last.reason) == ("waiting", True)


def test_a_new_publication_makes_the_old_one_history() -> None:
    own = [WITHDRAWN, change("proven", "b", 20), change("published", "b", 21, revision=12)]
    found = way(own, "b", one=balancer(change("routed", "a", 3), change("out", "a", 13)))
    assert told(found) == [(OWN, "proven"), (OWN, "published"), (ONE, "waiting")]


def test_one_that_its_machine_has_not_told_of_yet_is_known_from_the_store() -> None:
    found = way([FAILED, WITHDRAWN], "b", one=balancer(change("routed", "b", 30)))
    assert told(found) == [(OWN, "published"), (ONE, "routed")]
    assert found.steps[0].revision == 77


def test_an_update_is_applied_only_by_who_has_told_something_since() -> None:
    own = [PROVEN, PUBLISHED, change("updated", "a", 40, revision=20)]
    found = way(own, "a", one=balancer(change("routed", "a", 41)), two=balancer(change("routed", "a", 3)))
    assert told(found) == [(OWN, "updated"), (ONE, "routed"), (TWO, "waiting")]


def test_what_its_checks_say_since_then_is_told_too() -> None:
    failing = change("failed", "", 30, reason="status 500")
    assert told(way([PROVEN, PUBLISHED, failing], "a")) == [
        (OWN, "proven"),
        (OWN, "published"),
        (OWN, "failed"),
    ]
    assert told(way([failing])) == [(OWN, "failed")]
    assert told(way([change("failed", "", 1), PUBLISHED], "a")) == [(OWN, "published")]


def test_a_key_that_went_without_a_word_is_missing_and_not_withdrawn() -> None:
    orphaned = Problem(subject="endpoint web 10.0.0.5:80", reason="in rotation, reached")
    one = balancer(change("routed", "a", 3, reason="reload"), problems=(orphaned,))
    found = way([PUBLISHED], gone=(OWN, TWO), one=one, two=balancer())
    assert told(found) == [(OWN, "published"), (OWN, "missing"), (ONE, "routed"), (TWO, "waiting")]
    assert "lease" in found.steps[1].reason
    assert found.steps[2].reason == "reload; in rotation, reached"
    assert "no lease" in found.steps[3].reason


def test_the_endpoints_that_machines_have_a_word_of_are_known() -> None:
    assert places_of([balancer(PROVEN, PUBLISHED), balancer()]) == {PLACE}
