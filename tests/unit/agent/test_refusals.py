"""How long a refusal of HAProxy's stands, and for what."""

from __future__ import annotations

import pytest

from orbitcontrol.agent.refusals import Refusals
from orbitcontrol.model.configuration import ProxyConfiguration

ONE = ProxyConfiguration(tag="lb", template="one")
TWO = ProxyConfiguration(tag="lb", template="two", certs={"a.pem": "x"})


def test_a_refused_text_is_not_tried_again_at_once_but_another_text_is() -> None:
    refusal = Refusals().add(ONE, "text", "bad", generation=1, by_reload=False, now=100)
    assert refusal.stands_for("text", generation=1, now=100.5)
    assert not refusal.stands_for("other endpoints", generation=1, now=100.5)


def test_a_failed_reload_stands_for_the_template_whatever_its_endpoints() -> None:
    refusal = Refusals().add(ONE, "text", "bad", generation=1, by_reload=True, now=100)
    assert refusal.stands_for("other endpoints", generation=1, now=100.5)


def test_a_failed_reload_does_not_stand_for_another_generation() -> None:
    refusal = Refusals().add(ONE, "text", "bad", generation=1, by_reload=True, now=100)
    assert not refusal.stands_for("a service's attribute changed", generation=2, now=100.5)
    assert refusal.stands_for("text", generation=2, now=100.5)


def test_pauses_grow_to_a_minute() -> None:
    refusals, now, pauses = Refusals(), 100.0, []
    for _ in range(9):
        ready = refusals.add(ONE, "text", "bad", generation=1, by_reload=True, now=now).backoff.ready_at
        pauses.append(ready - now)
        now = ready
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60])


def test_what_was_taken_begins_anew_and_the_other_template_keeps_its_refusal() -> None:
    refusals = Refusals()
    refusals.add(ONE, "1", "bad one", generation=1, by_reload=True, now=100)
    refusals.add(TWO, "2", "bad two", generation=1, by_reload=False, now=100)
    refusals.forget(TWO)
    assert refusals.of(TWO) is None
    found = refusals.of(ONE)
    assert found is not None
    assert found.error == "bad one"


def test_only_the_newest_are_kept() -> None:
    refusals = Refusals()
    for number in range(5):
        configuration = ProxyConfiguration(tag="lb", template=str(number))
        refusals.add(configuration, "x", "bad", generation=1, by_reload=False, now=100)
    assert refusals.of(ProxyConfiguration(tag="lb", template="2")) is None
    assert refusals.of(ProxyConfiguration(tag="lb", template="4")) is not None
