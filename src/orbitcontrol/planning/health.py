"""When a run counts as up: the state machine of one check, and all checks of a run together.

A check starts undecided. ``Rise`` passes in a row make it up, ``Fall`` failures in a row make it
down; a single contrary answer starts the count anew. As with Docker's HEALTHCHECK, failures within
``StartPeriod`` do not count until the check has passed for the first time. An answer that says nothing
of the run (``ProbeResult.counts``) leaves what is decided, and both counts, as they were: what is not
known takes nobody out.

A run is up when all of its checks are up, and judged once that is so or one of them is down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct, structs

from orbitcontrol.model.runs import ProbeResult, Verdict
from orbitcontrol.model.service import Check, ExecCheck, GrpcCheck, HttpCheck, TcpCheck

_FIRST_PAUSE = 0.1

_SLOTS = 20
"""Moments in an interval at which questions are put."""

_SHORTEST_SLOT = 0.001


class CheckState(Struct, frozen=True, kw_only=True):
    """One check of one run: what is decided, and how many answers in a row say otherwise or anew.

    ``streak`` counts equal answers in a row, as far as it matters: positive passes up to ``Rise``,
    negative failures down to ``-Fall``. ``detail`` is the last failure's, "" once it is up.
    ``blind`` while the latest answer said nothing of the run.
    """

    decided: Literal["up", "down"] | None = None
    streak: int = 0
    passed_once: bool = False
    detail: str = ""
    blind: bool = False

    @classmethod
    def resumed(cls) -> CheckState:
        """A check whose run was proven before: it is up until ``Fall`` failures say otherwise."""
        return cls(decided="up", passed_once=True)


def after_result(state: CheckState, check: Check, result: ProbeResult, *, age: float) -> CheckState:
    """The state after one more answer; ``age`` is the run's, in seconds."""
    if result.passed:
        return _after_pass(state, check)
    if not result.counts:
        return structs.replace(state, detail=result.detail, blind=True)
    if not state.passed_once and age < check.start_period:
        return structs.replace(state, streak=0, detail=result.detail, blind=False)
    streak = max(min(state.streak, 0) - 1, -check.fall)
    decided = "down" if streak == -check.fall else state.decided
    return structs.replace(state, decided=decided, streak=streak, detail=result.detail, blind=False)


def _after_pass(state: CheckState, check: Check) -> CheckState:
    streak = min(max(state.streak, 0) + 1, check.rise)
    decided: Literal["up", "down"] | None = "up" if streak == check.rise else state.decided
    detail = "" if decided == "up" else state.detail
    after = CheckState(decided=decided, streak=streak, passed_once=True, detail=detail)
    return state if after == state else after


def pause_after(state: CheckState, check: Check, *, asked: int) -> float:
    """Seconds until the next question: short at first, growing to ``Interval`` until the first pass.

    ``asked`` counts the questions so far, from 1.
    """
    if state.passed_once:
        return float(check.interval)
    return float(min(_FIRST_PAUSE * 2 ** min(asked - 1, 10), check.interval))


def until_slot(check: Check, *, pause: float, now: float) -> float:
    """``pause``, made longer so that it ends at a slot of the check's interval.

    Slots are the same for all checks of an interval. Asking a few together halves what a thousand
    checks cost, for a twentieth of their interval at most.
    """
    slot = max(check.interval / _SLOTS, _SHORTEST_SLOT)
    return math.ceil((now + pause) / slot) * slot - now


def is_proven(states: Sequence[CheckState], checks: Sequence[Check]) -> bool:
    """True when the run has passed all of its checks by itself, whatever it was taken for at first."""
    return all(
        state.decided == "up" and state.streak >= check.rise
        for state, check in zip(states, checks, strict=True)
    )


def verdict_of(states: Sequence[CheckState]) -> Verdict:
    """What all checks of a run say together; a run without checks is up."""
    down = [state for state in states if state.decided == "down"]
    if down:
        return Verdict(up=False, judged=True, reason=down[0].detail)
    undecided = [state for state in states if state.decided is None]
    if undecided:
        return Verdict(up=False, judged=False, reason=undecided[0].detail)
    return Verdict(up=True, judged=True)


def trouble_of(states: Sequence[CheckState]) -> str:
    """What a person should know of a run's checks; "" while nothing is wrong with a judged run."""
    verdict = verdict_of(states)
    if verdict.judged and not verdict.up:
        return verdict.reason
    blind = next((state.detail for state in states if state.blind and state.decided is not None), None)
    return "" if blind is None else f"cannot be checked now, and counts as up as before: {blind}"


def addressed(check: Check, *, host: str, port: int) -> Check:
    """The check with ``${ENDPOINT_HOST}`` and ``${ENDPOINT_PORT}`` filled in."""

    def fill(text: str) -> str:
        return text.replace("${ENDPOINT_HOST}", _bracketed(host)).replace("${ENDPOINT_PORT}", str(port))

    match check:
        case HttpCheck():
            return structs.replace(check, url=fill(check.url))
        case TcpCheck() | GrpcCheck():
            return structs.replace(check, host_port=fill(check.host_port))
        case ExecCheck(command=str(command)):
            return structs.replace(check, command=fill(command))
        case ExecCheck(command=command):
            return structs.replace(check, command=[fill(part) for part in command])
        case _:
            return check


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
