"""What a machine makes of a generation, read off its record."""

from __future__ import annotations

from typing import Any

import pytest

from orbitcontrol.model.configuration import Desired, MachineIdentity
from orbitcontrol.model.state import MachineRecord, Problem, ProxyVerdict
from orbitcontrol.planning.verdicts import Question, State, held_of, verdict_of, why_template_held

ASKED = Question(epoch="e", generation=7, balancing=frozenset({"lb"}))


def record(**fields: Any) -> MachineRecord:
    return MachineRecord(**{"epoch": "e", "generation": 7, "tags": ("app",), **fields})


def proxy(*, accepted: bool = True, error: str = "", **fields: Any) -> ProxyVerdict:
    return ProxyVerdict(**{"epoch": "e", "generation": 7, "accepted": accepted, "error": error, **fields})


def balancer(verdict: ProxyVerdict | None, **fields: Any) -> MachineRecord:
    return record(tags=("app", "lb"), proxy=verdict, **fields)


HELD = (Problem(subject="service web", reason="unknown field"),)


@pytest.mark.parametrize(
    ("why", "of", "state", "reason"),
    [
        ("it plans from that generation", record(), "accepted", ""),
        ("it plans from a later one", record(generation=9), "accepted", ""),
        ("it plans from an earlier one", record(generation=6), "pending", ""),
        (
            "the number is of another store's generations",
            record(epoch="old", generation=40, holding="another store: run orbitctl recover"),
            "pending",
            "another store: run orbitctl recover",
        ),
        (
            "an import is still being applied there",
            record(generation=6, problems=(Problem(subject="store", reason="being applied"),)),
            "pending",
            "being applied",
        ),
        (
            "a service that it cannot understand is held",
            record(held=HELD),
            "rejected",
            "service web: unknown",
        ),
        ("HAProxy took the template", balancer(proxy()), "accepted", ""),
        ("HAProxy was not asked yet", balancer(None), "pending", ""),
        ("HAProxy took that of an earlier one", balancer(proxy(generation=6)), "pending", ""),
        ("HAProxy took that of another store's", balancer(proxy(epoch="old", generation=40)), "pending", ""),
        (
            "HAProxy refused that of an earlier one",
            balancer(proxy(accepted=False, error="x", generation=6)),
            "pending",
            "",
        ),
        (
            "HAProxy cannot be asked",
            balancer(proxy(generation=6), problems=(Problem(subject="haproxy", reason="no program"),)),
            "pending",
            "no program",
        ),
        ("HAProxy refuses", balancer(proxy(accepted=False, error="a.tpl:3: no")), "rejected", "a.tpl:3: no"),
        (
            "HAProxy refuses a later one",
            balancer(proxy(accepted=False, error="no", generation=9), generation=9),
            "rejected",
            "generation 9: no",
        ),
        ("the template was taken away", record(proxy=proxy(generation=6)), "accepted", ""),
        (
            "the health of what it runs is another matter",
            record(problems=(Problem(subject="service web", reason="status 500"),)),
            "accepted",
            "",
        ),
    ],
)
def test_a_machine_that_is_alive_says(why: str, of: MachineRecord, state: State, reason: str) -> None:
    verdict = verdict_of("10.0.0.1", of, alive=True, question=ASKED)
    assert verdict.state == state, why
    assert verdict.reason.startswith(reason), why
    assert bool(verdict.reason) == bool(reason), why


def test_one_that_is_gone_says_nothing_whatever_its_record_has() -> None:
    for of in (record(), record(generation=6), balancer(proxy(accepted=False, error="x"))):
        verdict = verdict_of("10.0.0.1", of, alive=False, question=ASKED)
        assert verdict.state == "unreachable"
        assert not verdict.is_final


def test_everything_that_is_rejected_is_told() -> None:
    of = balancer(proxy(accepted=False, error="a.tpl:3: no"), held=HELD)
    assert verdict_of("m", of, alive=True, question=ASKED).reason == "a.tpl:3: no\nservice web: unknown field"


def test_what_is_held_is_what_the_configuration_itself_is_wrong_with() -> None:
    desired = Desired(
        epoch="e",
        generation=7,
        machine=MachineIdentity(address="10.0.0.1"),
        held=frozenset({"web"}),
        proxy_held=True,
        problems=(
            Problem(subject="global properties", reason="unreadable"),
            Problem(subject="service api", reason="its revision in the store is older"),
            Problem(subject="service web", reason="unknown field"),
            Problem(subject="template", reason="the tags a and b both carry one"),
        ),
    )
    assert [problem.subject for problem in held_of(desired)] == ["global properties", "service web"]
    assert why_template_held(desired) == "the tags a and b both carry one"
