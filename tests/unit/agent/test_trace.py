"""What a machine remembers of its endpoints' changes: bounded, and over a restart of its daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from orbitcontrol.agent.board import Board, Session, Wake
from orbitcontrol.agent.endpoints import EndpointsLoop
from orbitcontrol.agent.health import HealthLoop
from orbitcontrol.agent.record import RecordLoop
from orbitcontrol.agent.trace import KEPT, Trace
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import encode
from orbitcontrol.model.configuration import MachineIdentity
from orbitcontrol.model.durations import Duration
from orbitcontrol.model.runs import ProbeResult, Run
from orbitcontrol.model.service import Check, DummyCheck
from orbitcontrol.statedir import StateDirectory
from orbitcontrol.store.sqlite import SqliteStore
from support.loops import ADDRESS, RUN, WEB, desired, eventually, ids, running, until

KEYS = Keys()
PLACE: dict[str, Any] = {"service": "web", "endpoint": f"{ADDRESS}:80"}


@pytest.fixture
def trace() -> Trace:
    """A trace whose clock goes on by a second with each look."""
    seconds: Iterator[int] = count(1_700_000_000)
    return Trace(clock=lambda: next(seconds) + 0.25)


def steps(trace: Trace) -> list[tuple[str, str]]:
    return [(change.step, change.id) for change in trace.changes]


def test_of_each_step_of_an_endpoint_the_newest_is_kept(trace: Trace) -> None:
    trace.note(**PLACE, step="failed", reason="status 500")
    trace.note(**PLACE, step="withdrawn", id="1", revision=8)
    trace.note(**PLACE, step="failed", reason="refused")
    assert [(change.step, change.reason) for change in trace.changes] == [
        ("withdrawn", ""),
        ("failed", "refused"),
    ]
    assert [change.at for change in trace.changes] == ["2023-11-14T22:13:21.250Z", "2023-11-14T22:13:22.250Z"]


def test_of_all_endpoints_the_newest_changes_are_kept_and_take_little_room(trace: Trace) -> None:
    for number in range(KEPT + 3):
        trace.note(service="web", endpoint=f"10.0.0.5:{number}", step="failed", reason="é" * 10_000)
    assert next(change.endpoint for change in trace.changes) == "10.0.0.5:3"
    assert len(trace.changes) == KEPT
    assert len(encode(trace.changes)) < 25_000


def test_a_cause_is_linked_to_what_it_led_to_once(trace: Trace) -> None:
    trace.note(**PLACE, step="proven")
    trace.link(**PLACE, step="proven", id="1")
    trace.link(**PLACE, step="proven", id="2")
    trace.link(**PLACE, step="ended", id="2")
    assert steps(trace) == [("proven", "1")]


def test_what_an_earlier_daemon_told_comes_before_what_was_noted_since(trace: Trace) -> None:
    trace.note(**PLACE, step="published", id="1", revision=5)
    trace.note(**PLACE, step="routed", id="1")
    told = trace.changes
    later = Trace(clock=lambda: 1_800_000_000)
    later.note(**PLACE, step="routed", id="2")
    later.resume(told)
    assert steps(later) == [("published", "1"), ("routed", "2")]
    for number in range(KEPT):
        later.note(service="api", endpoint=f"h:{number}", step="out")
    later.resume(told)
    assert len(later.changes) == KEPT
    assert ("published", "1") not in steps(later)


async def test_who_listens_is_woken(trace: Trace) -> None:
    wake = Wake()
    trace.subscribe(wake)
    trace.note(**PLACE, step="proven")
    assert "trace" in await wake.wait()


class Told:
    """A prober that answers as it is told."""

    passes = True

    async def probe(self, check: Check, run: Run) -> ProbeResult:
        return ProbeResult(passed=self.passes, detail="" if self.passes else "status 500")

    async def close(self) -> None:
        """Nothing to close."""


async def test_the_way_from_a_check_to_the_store_is_noted_and_told_in_the_record(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "store.db"))
    board = Board()
    often = DummyCheck(interval=Duration(0.1))
    web = structs.replace(WEB, service=structs.replace(WEB.service, checks=(often,)))
    run = structs.replace(RUN, effective=web)
    board.desired.set(desired(web))
    board.proven.set(frozenset())
    board.registered.set("mine")
    board.session.set(Session(id="mine", lease=await store.grant(60), resumed=False))
    prober = Told()
    loops = (
        HealthLoop(board=board, probers={DummyCheck: prober}),
        EndpointsLoop(
            board=board,
            store=store,
            keys=KEYS,
            machine=MachineIdentity(address=ADDRESS),
            files=StateDirectory(tmp_path / "state"),
            new_id=ids("endpoint"),
        ),
        RecordLoop(board=board, store=store, keys=KEYS, machine=MachineIdentity(address=ADDRESS), check=""),
    )

    async def told() -> list[dict[str, object]]:
        found = await store.get(KEYS.machine(ADDRESS))
        return json.loads(found.value)["Changes"] if found else []

    async def has_told(number: int) -> bool:
        return len(await told()) >= number

    async with running(*loops):
        board.runs.set((run,))
        await until(board.published, bool)
        published = await store.get(KEYS.endpoint("web", f"{ADDRESS}:80"))
        await eventually(lambda: has_told(2), what="both steps told")
        assert published is not None
        assert steps(board.trace) == [("proven", "endpoint1"), ("published", "endpoint1")]
        assert board.trace.changes[1].revision == published.mod_revision

        other = structs.replace(web, service=structs.replace(web.service, attributes={"weight": "2"}))
        board.runs.set((structs.replace(run, effective=other),))
        await eventually(lambda: has_told(3), what="the update told")
        assert steps(board.trace)[-1] == ("updated", "endpoint1")

        prober.passes = False
        await until(board.published, lambda runs: not runs)
        await eventually(lambda: has_told(5), what="the end told")
        assert steps(board.trace)[-2:] == [("failed", "endpoint1"), ("withdrawn", "endpoint1")]
        assert board.trace.changes[-2].reason == "status 500"

    resumed = Board()
    resumed.session.set(board.session.value)
    resumed.registered.set("mine")
    record = RecordLoop(
        board=resumed, store=store, keys=KEYS, machine=MachineIdentity(address=ADDRESS), check=""
    )
    async with running(record):

        async def resumes() -> bool:
            return resumed.trace.changes == board.trace.changes

        await eventually(resumes, what="the trace of the earlier daemon taken over")
    await store.close()
