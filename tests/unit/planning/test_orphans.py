"""What becomes of endpoints whose machine is gone: as long as they are reached, and not for ever."""

from __future__ import annotations

import pytest

from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.orphans import (
    FALL,
    LONGEST_RISE,
    ORPHAN_TIMEOUT,
    PROOF_LASTS,
    RISE,
    Orphan,
    Reach,
    Writes,
    after_connect,
    after_write,
    aged,
    followed,
    overdue,
    serving,
    standstill,
    told,
)
from orbitcontrol.planning.rotation import Place, Rotation, Routes, nowhere, rotate

A, B, C, D = (f"10.0.0.{n}:80" for n in range(1, 5))
UP = Endpoint(id="1", machine="10.0.0.1", session="s1")
DRAINING = Endpoint(id="1", machine="10.0.0.1", session="s1", state="draining")
PROVEN = Writes(0, 50)


def web(*addresses: str) -> dict[str, dict[str, Endpoint]]:
    return {"web": dict.fromkeys(addresses, UP)}


def seen(known: Routes, published: Routes) -> Rotation:
    return rotate(known=known, published=published, alive={}, confirmed=nowhere)


def place(address: str) -> Place:
    return Place("web", address)


def orphan(address: str, counted: float = 0.0, **reach: object) -> Orphan:
    return Orphan(service="web", address=address, counted=counted, reach=Reach(**reach))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "times", "streak"),
    [
        ("one write proves its own moment", [10], Writes(10, 10)),
        ("two writes prove the time between them", [10, 70], Writes(10, 70)),
        ("the longest pause still proves", [10, 10 + PROOF_LASTS], Writes(10, 10 + PROOF_LASTS)),
        ("a longer one proves nothing", [10, 11 + PROOF_LASTS], Writes(11 + PROOF_LASTS, 11 + PROOF_LASTS)),
        ("a failed one begins anew", [10, None, 20, 30], Writes(20, 30)),
        ("after a failed one nothing is proven", [10, 20, None], None),
    ],
)
def test_writes_prove_the_time_between_them(
    case: str, times: list[float | None], streak: Writes | None
) -> None:
    writes: Writes | None = None
    for at in times:
        writes = None if at is None else after_write(writes, at=at)
    assert writes == streak, case


@pytest.mark.parametrize(
    ("case", "mark", "writes", "counted"),
    [
        ("all of the time since it was looked at was proven", 100, Writes(50, 160), 60),
        ("only the end of it was proven", 100, Writes(130, 160), 30),
        ("the last write was before", 100, Writes(50, 100), 0),
        ("no write succeeded", 100, None, 0),
        ("it is looked at for the first time", None, Writes(50, 160), 0),
    ],
)
def test_only_proven_time_makes_an_orphan_older(
    case: str, mark: float | None, writes: Writes | None, counted: float
) -> None:
    marks = {} if mark is None else {place(A): mark}
    older, after = aged([orphan(A, 5)], marks=marks, still=(), writes=writes, now=170)
    assert older == (orphan(A, 5 + counted),), case
    again, _ = aged(older, marks=after, still=(), writes=writes, now=171)
    assert again == older, "the same time counted twice"


def test_the_time_before_and_after_a_standstill_is_not_joined() -> None:
    orphans, marks = aged([orphan(A)], marks={place(A): 0}, still={place(A)}, writes=PROVEN, now=50)
    orphans, marks = aged(orphans, marks=marks, still=(), writes=PROVEN, now=55)
    orphans, marks = aged(orphans, marks=marks, still=(), writes=Writes(0, 60), now=61)
    assert [each.counted for each in orphans] == [5]


@pytest.mark.parametrize(
    ("case", "known", "published", "writes", "reason"),
    [
        ("a third is orphaned", web(A, B, C), web(B, C), PROVEN, ""),
        ("more than a third is", web(A, B, C), web(C), PROVEN, "more than a third"),
        ("no write succeeded", web(A, B, C), web(B, C), None, "writes"),
        (
            "the store has nothing else of its service",
            web(A) | {"api": dict.fromkeys((B, C, D), UP)},
            web() | {"api": dict.fromkeys((B, C, D), UP)},
            PROVEN,
            "no published endpoint",
        ),
        (
            "all else of its service is about to be stopped",
            web(A, B, C),
            {"web": {B: DRAINING, C: DRAINING}},
            PROVEN,
            "no published endpoint",
        ),
        (
            "another service was not listed yet",
            web(A, B, C) | {"api": {D: UP}},
            web(B, C),
            PROVEN,
            "not listed yet",
        ),
    ],
)
def test_an_orphans_clock_stands_still_where_the_store_may_be_at_fault(
    case: str, known: Routes, published: Routes, writes: Writes | None, reason: str
) -> None:
    found = standstill(seen(known, published), known=known, writes=writes).get(place(A), "")
    assert reason in found, case
    assert bool(reason) == bool(found), case


def test_only_what_is_over_and_may_grow_older_is_overdue() -> None:
    orphans = [orphan(A, ORPHAN_TIMEOUT), orphan(B, ORPHAN_TIMEOUT - 1), orphan(C, ORPHAN_TIMEOUT)]
    assert overdue(orphans, still={place(C)}) == {place(A)}


def test_an_orphan_that_is_published_or_withdrawn_is_forgotten_with_its_clock() -> None:
    rotation = seen(web(A, B), web(B))
    orphans = followed([orphan(A, 7), orphan(B, 9)], rotation=rotation, known=web(A, B))
    assert orphans == (orphan(A, 7),)
    assert followed(orphans, rotation=seen(web(A, B), web(A, B)), known=web(A, B)) == ()


def test_clocks_wait_for_the_listing_of_their_service() -> None:
    nothing = seen(web(A), {})
    assert followed([orphan(A, 7)], rotation=nothing, known=web(A)) == (orphan(A, 7),)
    assert followed([orphan(A, 7)], rotation=nothing, known={}) == ()


def answers(reach: Reach, text: str) -> list[bool]:
    """Whether it is out after each answer: ``+`` connected, ``-`` not."""
    out = []
    for answer in text:
        reach = after_connect(reach, reached=answer == "+")
        out.append(reach.out)
    return out


def test_it_takes_failures_in_a_row_to_go_out_and_passes_in_a_row_to_return() -> None:
    assert answers(Reach(), "--+---") == [False, False, False, False, False, True]
    assert answers(Reach(out=True, departures=1), "+-++") == [True, True, True, False]


def test_one_that_flaps_returns_ever_later() -> None:
    reach, waited = Reach(), []
    for _ in range(8):
        for _ in range(FALL):
            reach = after_connect(reach, reached=False)
        passes = 0
        while reach.out:
            reach = after_connect(reach, reached=True)
            passes += 1
        waited.append(passes)
    assert waited == [RISE, 4, 8, 16, LONGEST_RISE, LONGEST_RISE, LONGEST_RISE, LONGEST_RISE]


def test_answers_that_agree_change_nothing() -> None:
    assert after_connect(Reach(), reached=True) == Reach()
    assert after_connect(Reach(out=True, departures=3), reached=False) == Reach(out=True, departures=3)


OUT = orphan(A, out=True, departures=1)


@pytest.mark.parametrize(
    ("case", "known", "published", "orphans", "checked", "served"),
    [
        ("an orphan stays", web(A, B), web(B), [orphan(A)], [], [A, B]),
        ("one that is not reached goes out", web(A, B), web(B), [OUT], [], [B]),
        ("HAProxy's own check decides alone", web(A, B), web(B), [OUT], [A], [A, B]),
        ("the last one stays although it is not reached", web(A), web(), [OUT], [], [A]),
        ("all stay where none is reached", web(A, B), web(), [OUT, orphan(B, out=True)], [], [A, B]),
        (
            "a draining one gets nothing new",
            {"web": {A: DRAINING, B: UP}},
            web(B),
            [orphan(A)],
            [],
            [B],
        ),
        (
            "a draining one returns as the last that is reached",
            {"web": {A: DRAINING, B: UP}},
            web(),
            [orphan(A), orphan(B, out=True)],
            [],
            [A],
        ),
        (
            "a draining one that is not reached does not return",
            {"web": {A: DRAINING, B: UP}},
            web(),
            [OUT, orphan(B, out=True)],
            [],
            [B],
        ),
        (
            "what its own machine drains does not return",
            {"web": {A: DRAINING}},
            {"web": {A: DRAINING}},
            [],
            [],
            [],
        ),
    ],
)
def test_what_gets_new_connections(
    *,
    case: str,
    known: Routes,
    published: Routes,
    orphans: list[Orphan],
    checked: list[str],
    served: list[str],
) -> None:
    found = serving(seen(known, published), orphans, checked=[place(address) for address in checked])
    assert sorted(found["web"]) == served, case


def test_the_time_left_is_told_in_steps_so_that_telling_it_costs_few_writes() -> None:
    texts = [
        told(orphan(A, counted), UP, serves=True, checked=False, standstill="")
        for counted in range(0, int(ORPHAN_TIMEOUT) + 1, 10)
    ]
    assert list(dict.fromkeys(text.rpartition("; ")[2] for text in texts)) == [
        "it is removed in at most 10 minutes",
        "it is removed in at most 5 minutes",
        "it is removed in at most 2 minutes",
        "it is removed in at most 1 minute",
    ]


@pytest.mark.parametrize(
    ("each", "endpoint", "serves", "checked", "words"),
    [
        (orphan(A), UP, True, False, "in rotation while this machine can connect"),
        (orphan(A), UP, True, True, "HAProxy's own check decides"),
        (OUT, UP, False, False, "out of rotation because this machine cannot connect"),
        (OUT, UP, True, False, "cannot connect to it, but it stays in rotation as the last"),
        (orphan(A), DRAINING, False, False, "was draining and gets nothing new"),
        (orphan(A), DRAINING, True, False, "back in rotation as the last server"),
    ],
)
def test_an_orphan_is_told_of_with_where_it_stands(
    each: Orphan, endpoint: Endpoint, *, serves: bool, checked: bool, words: str
) -> None:
    text = told(each, endpoint, serves=serves, checked=checked, standstill="because")
    assert words in text
    assert "its machine 10.0.0.1 is gone" in text
    assert text.endswith("its clock, with at most 10 minutes left, stands still: because")
