from __future__ import annotations

from orbitcontrol.planning.backoff import Backoff, ended, failed, pause_after, seen


def test_the_first_end_costs_no_wait_and_further_ones_double_up_to_a_minute() -> None:
    assert [pause_after(attempts) for attempts in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_a_container_that_keeps_ending_waits_longer_each_time() -> None:
    first = ended(Backoff(), reason="exit code 1", now=100)
    second = ended(first, reason="exit code 1", now=101)
    third = ended(second, reason="exit code 2", now=103)
    assert (first.ready_at, second.ready_at, third.ready_at) == (100, 102, 105)
    assert third.reason == "exit code 2"


def test_ten_healthy_seconds_forget_the_failures() -> None:
    troubled = Backoff(attempts=5, ready_at=50, reason="exit code 1")
    up = seen(troubled, up=True, now=60)
    assert ended(up, reason="again", now=69.9).ready_at > 69.9
    assert ended(up, reason="again", now=70).ready_at == 70


def test_healthy_seconds_count_even_when_the_checks_fail_before_the_end() -> None:
    up = seen(Backoff(attempts=5), up=True, now=60)
    failing = seen(up, up=False, now=75)
    assert ended(failing, reason="again", now=76).ready_at == 76


def test_being_up_now_and_then_is_not_being_healthy() -> None:
    backoff = Backoff(attempts=3)
    for now in range(0, 40, 4):
        backoff = seen(backoff, up=now % 8 == 0, now=now)
    assert backoff.attempts == 3


def test_a_failed_action_never_is_tried_again_at_once() -> None:
    first = failed(Backoff(), reason="no", now=10)
    assert first.ready_at == 11
    assert failed(first, reason="no", now=11).ready_at == 13
    assert failed(first, reason="no", now=11, stretch=1.2).ready_at == 13.4
