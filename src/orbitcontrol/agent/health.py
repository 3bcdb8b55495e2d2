"""Health: asks every check of every run at its own pace, and keeps ``board.verdicts``.

Each check of each run is a task of its own, so a check that hangs until its time-out delays no
other. A run that starts is asked at once, then at growing pauses until its first pass. A run that a
resumed session had published starts as up: it was proven before, and its proof is still in force.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping

from msgspec import Struct

from orbitcontrol.agent.board import Board, Wake
from orbitcontrol.agent.loop import forever
from orbitcontrol.log import Log
from orbitcontrol.model.runs import ProbeResult, Run, RunId, Verdict
from orbitcontrol.model.service import Check
from orbitcontrol.planning.health import CheckState, addressed, after_result, pause_after, verdict_of
from orbitcontrol.ports import Prober

_log = Log(__name__)

_GRACE = 1.0


class _Watched(Struct):
    """A run under check: its checks as configured, their states, and the tasks that ask."""

    run: Run
    checks: tuple[Check, ...]
    states: list[CheckState]
    tasks: list[asyncio.Task[None]]
    since: float


class HealthLoop:
    """Checks what is in ``board.runs``. ``probers`` maps a kind of check to who carries it out."""

    def __init__(self, *, board: Board, probers: Mapping[type, Prober]) -> None:
        self._board = board
        self._probers = probers
        self._wake = Wake()
        self._watched: dict[RunId, _Watched] = {}

    async def run(self) -> None:
        """Never returns."""
        self._board.runs.subscribe(self._wake)
        self._board.proven.subscribe(self._wake)
        async with asyncio.TaskGroup() as group:
            self._group = group
            await forever("health", self._step, wake=self._wake, problems=self._board.problems)

    async def _step(self, _: frozenset[str]) -> None:
        runs, proven = self._board.runs.value, self._board.proven.value
        if runs is None or proven is None:
            return
        current = {run.id: run for run in runs}
        for run_id in self._watched.keys() - current.keys():
            self._end(self._watched.pop(run_id))
        for run_id, run in current.items():
            before = self._watched.get(run_id)
            checks = tuple(
                addressed(check, host=run.host, port=run.port) for check in run.effective.service.checks
            )
            if before is not None and before.checks == checks:
                before.run = run
                continue
            if before is None:  # the proof ends with the endpoint: a run that comes back needs another
                was_up = run_id in proven and run_id in self._board.published.value
            else:
                was_up = verdict_of(before.states).up
                self._end(before)
            self._watched[run_id] = self._begin(run, checks, was_up=was_up)
        self._publish()

    def _begin(self, run: Run, checks: tuple[Check, ...], *, was_up: bool) -> _Watched:
        """Starts asking. With ``was_up`` the run counts as up until checks have failed."""
        first = CheckState.resumed() if was_up else CheckState()
        watched = _Watched(run, checks, [first] * len(checks), [], time.monotonic())
        watched.tasks = [
            self._group.create_task(self._ask(watched, place), name=f"check {run.id.service} {place}")
            for place in range(len(checks))
        ]
        return watched

    def _end(self, watched: _Watched) -> None:
        for task in watched.tasks:
            task.cancel()

    async def _ask(self, watched: _Watched, place: int) -> None:
        """Asks one check of one run until it is cancelled."""
        check = watched.checks[place]
        if watched.states[place].passed_once:
            await asyncio.sleep(random.uniform(0, float(check.interval)))
        asked = 0
        while True:
            result = await self._probe(check, watched.run)
            asked += 1
            before = watched.states[place]
            age = time.monotonic() - watched.since
            watched.states[place] = after_result(before, check, result, age=age)
            if watched.states[place] != before:
                self._publish()
            await asyncio.sleep(pause_after(watched.states[place], check, asked=asked))

    async def _probe(self, check: Check, run: Run) -> ProbeResult:
        """One answer; whatever goes wrong in asking is a failed check, never a failed daemon."""
        prober = self._probers.get(type(check))
        if prober is None:
            kind = type(check).__name__.removesuffix("Check").lower()
            return ProbeResult(passed=False, detail=f"checks of type {kind} are not supported yet")
        try:
            async with asyncio.timeout(check.connect_timeout + check.response_timeout + _GRACE):
                return await prober.probe(check, run)
        except TimeoutError:
            return ProbeResult(passed=False, detail="no answer in time")
        except Exception as error:  # noqa: BLE001 -- one check's fault must not end the others
            _log.error("check failed unexpectedly", exc_info=True, service=run.id.service)
            return ProbeResult(passed=False, detail=f"unexpected {type(error).__name__}: {error}")

    def _publish(self) -> None:
        """Tells the other loops, and logs what turned."""
        before = self._board.verdicts.value
        verdicts = {run_id: verdict_of(watched.states) for run_id, watched in self._watched.items()}
        for run_id, verdict in verdicts.items():
            known = before.get(run_id, Verdict(up=False, judged=False))
            if (known.up, known.judged) != (verdict.up, verdict.judged):
                state = "up" if verdict.up else "down" if verdict.judged else "not yet judged"
                _log.info(
                    "service is " + state,
                    service=run_id.service,
                    instance=run_id.instance,
                    reason=verdict.reason,
                )
        self._board.verdicts.set(verdicts)
        failing = {
            f"service {run_id.service}": f"instance {run_id.instance}: {verdict.reason}"
            for run_id, verdict in sorted(verdicts.items(), reverse=True)
            if verdict.judged and not verdict.up
        }
        self._board.problems.report("health", failing)
