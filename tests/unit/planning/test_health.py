from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbitcontrol.model.durations import Duration
from orbitcontrol.model.runs import ProbeResult
from orbitcontrol.model.service import Check, DummyCheck, ExecCheck, GrpcCheck, HttpCheck, TcpCheck
from orbitcontrol.planning.health import (
    CheckState,
    addressed,
    after_result,
    pause_after,
    trouble_of,
    until_slot,
    verdict_of,
)

PASS = ProbeResult(passed=True)
FAIL = ProbeResult(passed=False, detail="refused")


def states(check: Check, answers: str, *, age: float = 100, start: CheckState | None = None) -> CheckState:
    state = start or CheckState()
    for answer in answers:
        state = after_result(state, check, PASS if answer == "+" else FAIL, age=age)
    return state


@pytest.mark.parametrize(
    ("answers", "rise", "fall", "decided"),
    [
        ("", 1, 2, None),
        ("+", 1, 2, "up"),
        ("-", 1, 2, None),
        ("--", 1, 2, "down"),
        ("+-", 1, 2, "up"),
        ("+--", 1, 2, "down"),
        ("+-+-+-", 1, 2, "up"),
        ("++", 3, 2, None),
        ("++-++", 3, 2, None),
        ("++-+++", 3, 2, "up"),
        ("--+", 2, 2, "down"),
        ("--++", 2, 2, "up"),
    ],
)
def test_rise_passes_in_a_row_make_it_up_and_fall_failures_in_a_row_make_it_down(
    answers: str, rise: int, fall: int, decided: Literal["up", "down"] | None
) -> None:
    assert states(DummyCheck(rise=rise, fall=fall), answers).decided == decided


def test_failures_in_the_start_period_do_not_count_until_the_first_pass() -> None:
    check = DummyCheck(fall=2, start_period=Duration(30))
    assert states(check, "-----", age=10).decided is None
    assert states(check, "--", age=31).decided == "down"
    assert states(check, "+--", age=10).decided == "down"


def test_a_failure_in_the_start_period_still_breaks_a_row_of_passes() -> None:
    check = DummyCheck(rise=2, start_period=Duration(30))
    assert states(check, "+-+", age=10).decided is None


def test_a_resumed_check_is_up_until_it_fails_often_enough() -> None:
    check = DummyCheck(fall=2)
    assert states(check, "-", start=CheckState.resumed()).decided == "up"
    assert states(check, "--", start=CheckState.resumed()).decided == "down"


def test_a_new_run_is_asked_at_growing_pauses_until_its_first_pass_then_at_its_interval() -> None:
    check = DummyCheck(interval=Duration(2))
    waiting = CheckState()
    pauses = [pause_after(waiting, check, asked=asked) for asked in range(1, 8)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2, 2])
    assert pause_after(states(check, "+"), check, asked=1) == 2
    assert pause_after(states(check, "+-"), check, asked=2) == 2


def test_all_checks_of_a_run_count() -> None:
    up, down, open_ = CheckState(decided="up"), CheckState(decided="down", detail="refused"), CheckState()
    assert verdict_of([]).up
    assert verdict_of([up, up]).up
    assert not verdict_of([up, open_]).up
    assert not verdict_of([up, open_]).judged
    mixed = verdict_of([up, down, open_])
    assert (mixed.up, mixed.judged, mixed.reason) == (False, True, "refused")


def test_the_endpoints_address_is_filled_into_a_check() -> None:
    http = addressed(HttpCheck(url="http://${ENDPOINT_HOST}:${ENDPOINT_PORT}/"), host="10.0.0.5", port=20001)
    assert isinstance(http, HttpCheck)
    assert http.url == "http://10.0.0.5:20001/"
    tcp = addressed(TcpCheck(host_port="${ENDPOINT_HOST}:${ENDPOINT_PORT}"), host="fd00::5", port=80)
    assert isinstance(tcp, TcpCheck)
    assert tcp.host_port == "[fd00::5]:80"
    grpc = addressed(GrpcCheck(host_port="${ENDPOINT_HOST}:${ENDPOINT_PORT}"), host="h", port=1)
    assert isinstance(grpc, GrpcCheck)
    assert grpc.host_port == "h:1"
    command = addressed(ExecCheck(command=["nc", "${ENDPOINT_PORT}"]), host="h", port=1)
    assert isinstance(command, ExecCheck)
    assert command.command == ["nc", "1"]
    for_shell = addressed(ExecCheck(command="nc ${ENDPOINT_HOST} ${ENDPOINT_PORT}"), host="h", port=1)
    assert isinstance(for_shell, ExecCheck)
    assert for_shell.command == "nc h 1"


def test_an_answer_that_says_nothing_leaves_what_is_decided_and_both_counts() -> None:
    blind = ProbeResult(passed=False, detail="Docker is silent", counts=False)
    check = DummyCheck(rise=2, fall=2)
    one_pass = states(check, "+")
    assert states(check, "+", start=after_result(one_pass, check, blind, age=100)).decided == "up"
    up = states(check, "++")
    for _ in range(5):
        up = after_result(up, check, blind, age=100)
    assert (up.decided, verdict_of([up]).up) == ("up", True)
    assert "Docker is silent" in trouble_of([up])
    assert trouble_of([states(check, "+", start=up)]) == ""
    assert states(check, "--", start=up).decided == "down"
    assert after_result(CheckState(), check, blind, age=100).decided is None


def test_a_failing_run_keeps_its_reason_until_it_is_up_again() -> None:
    check = DummyCheck(rise=2)
    assert verdict_of([states(check, "--+")]).reason == "refused"
    assert verdict_of([states(check, "--++")]).reason == ""


def test_an_answer_that_changes_nothing_gives_the_same_state() -> None:
    check = DummyCheck(rise=2)
    up = states(check, "++")
    assert after_result(up, check, PASS, age=100) is up


@given(interval=st.floats(0, 3600), part=st.floats(0.5, 1), now=st.floats(0, 1e7), later=st.floats(0, 0.01))
def test_checks_of_an_interval_meet_and_wait_hardly_longer_than_they_would(
    interval: float, part: float, now: float, later: float
) -> None:
    check = DummyCheck(interval=Duration(interval))
    slot = max(interval / 20, 0.001)
    pause = until_slot(check, pause=interval * part, now=now)
    assert interval * part - 1e-6 <= pause <= interval * part + slot + 1e-6
    other = until_slot(check, pause=interval, now=now + later)
    apart = (now + later + other) - (now + pause)
    assert apart / slot == pytest.approx(round(apart / slot), abs=1e-3)
