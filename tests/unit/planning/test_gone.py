"""When a machine is gone: no lease for three TTLs, and silent where it was once reached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
from msgspec import structs

from orbitcontrol.planning.gone import (
    CLOSED_PORT,
    MOST_BINDS,
    Answer,
    Evidence,
    ask_at,
    asked_all,
    judged,
    noted,
    place_of,
)

TTL = 10.0
MACHINE = "10.0.0.2"
CHECK, BIND, CLOSED = f"{MACHINE}:1500", f"{MACHINE}:80", f"{MACHINE}:{CLOSED_PORT}"
SILENT: Mapping[str, Answer] = {CHECK: "silent", BIND: "silent", CLOSED: "silent"}


def read(
    before: Evidence | None,
    at: float,
    *,
    begun: float | None = None,
    check: str = CHECK,
    binds: Iterable[str] = (BIND,),
) -> Evidence:
    """After a reading without the lease that ended at ``at``."""
    return noted(
        before,
        address=MACHINE,
        check=check,
        binds=binds,
        begun=at if begun is None else begun,
        now=at,
        ttl=TTL,
    )


def waited(
    start: float,
    end: float,
    *,
    before: Evidence | None = None,
    answers: Mapping[str, Answer] = SILENT,
    check: str = CHECK,
) -> Evidence:
    """A reading and a round of connects every half a TTL, from ``start`` to ``end``."""
    evidence = before
    for at in range(int(start), int(end) + 1, 5):
        evidence = asked_all(read(evidence, at, check=check), answers, begun=at, now=at + 1)
    assert evidence is not None
    return evidence


def state(evidence: Evidence, now: float, *, met: bool = True) -> str:
    return judged(evidence, met=met, now=now, ttl=TTL).state


def test_a_machine_without_a_lease_for_three_ttls_whose_places_are_silent_is_gone() -> None:
    assert state(waited(0, 30), 31) == "gone"


def test_a_moment_earlier_it_is_not() -> None:
    evidence = read(waited(0, 25), 29.9)
    assert judged(evidence, met=True, now=30.5, ttl=TTL).reason.endswith(
        "not for long enough to be called gone"
    )


def test_time_in_which_nothing_was_read_does_not_count_and_what_was_before_counts_no_more() -> None:
    paused = waited(40, 50, before=waited(0, 25))
    assert state(paused, 51) == "unknown"
    assert state(waited(55, 65, before=paused), 66) == "unknown"
    assert state(waited(55, 70, before=paused), 71) == "gone"


def test_readings_one_ttl_apart_are_as_good_as_any() -> None:
    evidence = waited(0, 10)
    for at in (20, 30):
        evidence = asked_all(read(evidence, at), SILENT, begun=at, now=at)
    assert state(evidence, 31) == "gone"


def test_of_a_slow_reading_nothing_counts_but_that_it_began() -> None:
    """While it lasted the lease may have come, or have ended."""
    first = read(None, 8, begun=0)
    assert (first.absent_since, first.absent_until) == (8, 0)
    later = read(first, 10, begun=9)
    assert (later.absent_since, later.absent_until) == (8, 9)
    assert read(later, 19.5, begun=19).absent_since == 19.5  # a lease may have begun after 9


def test_readings_that_overtake_each_other_do_not_turn_time_back() -> None:
    evidence = read(read(None, 0), 6)
    assert read(evidence, 7, begun=3).absent_until == 6


def test_what_was_gone_is_so_no_longer_than_somebody_looks() -> None:
    assert state(waited(0, 30), 41) == "unknown"


@pytest.mark.parametrize("place", [CHECK, BIND, CLOSED])
@pytest.mark.parametrize("answer", ["accepted", "refused"])
def test_any_answer_of_any_place_means_alive_and_everything_begins_anew(place: str, answer: Answer) -> None:
    answered = asked_all(waited(0, 30), {**SILENT, place: answer}, begun=32, now=33)
    assert judged(answered, met=True, now=33, ttl=TTL).reason == f"it has no lease, but {place} answers"
    assert state(answered, 33) == "alive"
    assert state(waited(35, 60, before=answered), 61) == "unknown"
    assert state(waited(35, 65, before=answered), 66) == "gone"


def test_silence_proves_nothing_to_whoever_never_reached_the_daemon() -> None:
    told = judged(waited(0, 100), met=False, now=101, ttl=TTL)
    assert (told.state, CHECK in told.reason) == ("unknown", True)
    assert "never reached" in told.reason


def test_where_nobody_knows_where_the_daemon_listens_nothing_is_proven() -> None:
    told = judged(waited(0, 100, check=""), met=True, now=101, ttl=TTL)
    assert (told.state, "nobody knows" in told.reason) == ("unknown", True)


def test_a_place_that_cannot_be_asked_is_not_silent_and_is_named() -> None:
    blind = waited(35, 65, before=waited(0, 30), answers={**SILENT, BIND: "unasked"})
    told = judged(blind, met=True, now=66, ttl=TTL)
    assert (told.state, BIND in told.reason) == ("unknown", True)
    assert state(waited(70, 80, before=blind), 81) == "gone"


def test_less_than_three_silent_rounds_are_a_few_lost_packets() -> None:
    evidence = waited(0, 5)
    for at in range(10, 35, 5):
        evidence = read(evidence, at)
    assert state(evidence, 31) == "unknown"
    assert state(asked_all(evidence, SILENT, begun=31, now=32), 32) == "gone"


def test_what_was_silent_before_an_answer_counts_no_more() -> None:
    evidence = waited(0, 30)
    for answer in ("accepted", "silent", "silent"):
        evidence = asked_all(read(evidence, 35), {**SILENT, CLOSED: answer}, begun=35, now=35)
    for at in range(40, 70, 5):
        evidence = read(evidence, at)
    assert state(evidence, 65) == "unknown"
    assert state(asked_all(evidence, SILENT, begun=65, now=65), 65) == "gone"


def test_silence_of_long_ago_proves_nothing_of_now() -> None:
    evidence = waited(0, 30)
    for at in range(35, 65, 5):
        evidence = read(evidence, at)
    assert state(evidence, 60) == "gone"
    assert state(evidence, 61) == "unknown"


def test_a_round_that_began_before_everything_began_anew_does_not_count() -> None:
    evidence = read(None, 10)
    assert asked_all(evidence, SILENT, begun=9, now=11).silent == 0
    assert asked_all(evidence, SILENT, begun=10, now=11).silent == 1


def test_a_place_that_is_learnt_of_late_is_to_be_silent_as_often_as_the_others() -> None:
    evidence = read(waited(0, 30), 31, binds=["10.0.0.2:443"])
    assert evidence.places == {*SILENT, "10.0.0.2:443"}
    assert state(evidence, 31) == "unknown"
    assert asked_all(evidence, SILENT, begun=31, now=32).unasked == "10.0.0.2:443"


def test_what_one_service_does_not_know_of_a_machine_is_not_forgotten() -> None:
    evidence = read(read(None, 0), 1, check="", binds=())
    assert evidence.places == set(SILENT)
    assert evidence.checks == {CHECK}


def test_of_very_many_binds_some_are_asked() -> None:
    evidence = read(None, 0, binds=[f"{MACHINE}:{port}" for port in range(1000, 2000)])
    assert len(evidence.places) == MOST_BINDS + 2


def test_a_machine_is_asked_twice_in_a_ttl_also_when_everything_begins_anew() -> None:
    evidence = structs.replace(read(None, 3), asked=4.0)
    assert ask_at(evidence, ttl=TTL) == 9
    assert ask_at(read(evidence, 30), ttl=TTL) == 9


@pytest.mark.parametrize(
    ("address", "written", "place"),
    [
        ("10.0.0.2", "10.0.0.2:80", "10.0.0.2:80"),
        ("10.0.0.2", "10.0.0.100:80", "10.0.0.100:80"),
        ("10.0.0.2", "0.0.0.0:80", "10.0.0.2:80"),
        ("10.0.0.2", "*:80", "10.0.0.2:80"),
        ("10.0.0.2", ":80", "10.0.0.2:80"),
        ("10.0.0.2", "[::]:80", "10.0.0.2:80"),
        ("fd00::2", "[::]:80", "[fd00::2]:80"),
        ("fd00::2", "[fd00::2]:80", "[fd00::2]:80"),
        ("10.0.0.2", "127.0.0.1:80", ""),
        ("10.0.0.2", "localhost:80", ""),
        ("10.0.0.2", "[::1]:80", ""),
        ("127.0.0.2", "127.0.0.2:80", "127.0.0.2:80"),
        ("10.0.0.2", "", ""),
        ("10.0.0.2", "/run/haproxy.sock", ""),
    ],
)
def test_places_are_as_others_reach_them(address: str, written: str, place: str) -> None:
    assert place_of(address, written) == place
    assert place_of(address, place) == place
