"""Health: asks every check of every run at its own pace, and keeps ``board.verdicts``.

Each check of each run is a task of its own, so a check that hangs until its time-out delays no
other. A run that starts is asked at once, then at growing pauses until its first pass; from then on
at its interval, beginning at a random moment, so that what started together is not asked together. A
run that a resumed session had published starts as up: it was proven before, and its proof is still
in force.

A daemon that starts while its store is away cannot know whether its session goes on. After a moment it
begins with what it remembers, and *presumes* that it does: what was published then starts as up. When
the store says that the lease was lost, a presumed run that has not passed ``Rise`` times since is
asked from the beginning: it needs proof again. The same question is put when a lease is lost later. A
daemon that was frozen until then has verdicts as old as its sleep: what rests on answers older than the
pace of its checks is asked from the beginning, too; while checks went on, nothing is.

With a thousand checks nearly every answer changes nothing. So an answer costs what it changes: only
a new verdict of its run is told, and what turns in quick succession is told together. And checks are
asked in small groups, at common moments of their interval: waking up for each costs more than asking.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Collection, Mapping

from msgspec import Struct

from orbitcontrol.agent.board import Board, Wake
from orbitcontrol.agent.loop import forever
from orbitcontrol.log import Log
from orbitcontrol.model.runs import ProbeResult, Run, RunId, Verdict
from orbitcontrol.model.service import Check
from orbitcontrol.planning.endpoints import address_of
from orbitcontrol.planning.health import (
    CheckState,
    addressed,
    after_result,
    is_proven,
    pause_after,
    trouble_of,
    until_slot,
    verdict_of,
)
from orbitcontrol.ports import Prober

_log = Log(__name__)

_PATIENCE = 2.0
"""Seconds after its start for which a daemon without its store waits for it."""

_GRACE = 1.0
"""Seconds beyond a check's own time-outs after which its prober is given up."""

_BETWEEN_STARTS = 0.001
"""Seconds between the first questions of runs that are found together: a daemon that finds a thousand
must not measure its own haste."""

_QUIET = 0.05
"""Seconds after telling the other loops in which what turns is collected and told together."""

_REASON_PAUSE = 10.0
"""Seconds for which a reason stands although the check now fails in other words: some failures carry
a time or a number that is never the same twice."""


class _Watched(Struct):
    """A run under check: its checks as configured, their states, and the tasks that ask.

    ``verdict`` and ``trouble`` are what was told of it last, ``reason_at`` when its reason was;
    ``answered_at`` is when each check last said something of the run, on the clock that goes on in sleep.
    """

    run: Run
    checks: tuple[Check, ...]
    states: list[CheckState]
    answered_at: list[float]
    since: float
    verdict: Verdict
    tasks: list[asyncio.Task[None]] = []
    trouble: str = ""
    reason_at: float = -_REASON_PAUSE


class HealthLoop:
    """Checks what is in ``board.runs``. ``probers`` maps a kind of check to who carries it out.

    ``patience`` is how long it waits for the store at first, in seconds.
    """

    def __init__(self, *, board: Board, probers: Mapping[type, Prober], patience: float = _PATIENCE) -> None:
        self._board = board
        self._probers = probers
        self._wake = Wake()
        self._watched: dict[RunId, _Watched] = {}
        self._verdicts: dict[RunId, Verdict] = {}
        self._troubles: dict[RunId, str] = {}
        self._turned = asyncio.Event()
        self._patience = patience
        self._presumes = False

    async def run(self) -> None:
        """Never returns."""
        self._board.runs.subscribe(self._wake)
        self._board.proven.subscribe(self._wake)
        self._board.presumed.subscribe(self._wake)
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._tell(), name="health verdicts")
            group.create_task(self._without_store(), name="health without the store")
            await forever("health", self._step, wake=self._wake, problems=self._board.problems)

    async def _without_store(self) -> None:
        """Begins with what is remembered when the store has not answered for a while after the start."""
        await asyncio.sleep(self._patience)
        if self._board.proven.value is None:
            self._presumes = True
            self._wake.ring("the store does not answer")

    async def _step(self, _: frozenset[str]) -> None:
        runs, proven = self._board.runs.value, self._board.proven.value
        if runs is None or (proven is None and not self._presumes):
            return
        current = {run.id: run for run in runs}
        for run_id in self._watched.keys() - current.keys():
            ended = self._watched.pop(run_id)
            self._end(ended)
            self._trace_end(ended.run)
            self._verdicts.pop(run_id, None)
            self._troubles.pop(run_id, None)
        if proven is not None:
            self._settle_presumptions(proven)
        delay = 0.0
        for run in current.values():
            if self._take(run, delay):
                delay += _BETWEEN_STARTS
        self._publish()

    def _take(self, run: Run, delay: float) -> bool:
        """Begins checking a run that is new, or whose checks are; False when there is nothing to begin."""
        before = self._watched.get(run.id)
        if before is not None and before.run == run:
            return False
        checks = tuple(
            addressed(check, host=run.host, port=run.port) for check in run.effective.service.checks
        )
        if before is not None and before.checks == checks:
            before.run = run
            return False
        was_up = self._was_published(run.id) if before is None else before.verdict.up
        watched = self._begin(run, checks, was_up=was_up, delay=delay)
        if before is not None:
            self._end(before)
            watched.verdict, watched.trouble = before.verdict, before.trouble
        self._judge(watched)
        return True

    def _was_published(self, run_id: RunId) -> bool:
        """True for a run whose proof is still in force, or presumed to be.

        The proof ends with the endpoint: a run that comes back needs another.
        """
        proven = self._board.proven.value
        if proven is not None:
            return run_id in proven and run_id in self._board.published.value
        presumed = run_id in self._board.stands_for.value.values()
        if presumed:
            self._board.presumed.set(self._board.presumed.value | {run_id})
        return presumed

    def _settle_presumptions(self, proven: Collection[RunId]) -> None:
        """The store has said which runs are proven; the other presumed ones must be by themselves."""
        for run_id in self._board.presumed.value - frozenset(proven):
            before = self._watched.get(run_id)
            if before is None or not before.verdict.up or _is_proven_now(before):
                continue
            _log.info("lease lost, proof needed again", service=run_id.service, instance=run_id.instance)
            self._end(before)
            watched = self._begin(before.run, before.checks, was_up=False, delay=0)
            watched.verdict, watched.trouble = before.verdict, before.trouble
            self._judge(watched)
        self._board.presumed.set(frozenset())

    def _begin(self, run: Run, checks: tuple[Check, ...], *, was_up: bool, delay: float) -> _Watched:
        """Starts asking. With ``was_up`` the run counts as up until checks have failed."""
        first = CheckState.resumed() if was_up else CheckState()
        watched = _Watched(
            run,
            checks,
            [first] * len(checks),
            [-math.inf] * len(checks),
            time.monotonic(),
            Verdict(up=False, judged=False),
        )
        self._watched[run.id] = watched
        watched.tasks = [
            self._group.create_task(self._ask(watched, place, delay), name=f"check {run.id.service} {place}")
            for place in range(len(checks))
        ]
        return watched

    def _end(self, watched: _Watched) -> None:
        for task in watched.tasks:
            task.cancel()

    async def _ask(self, watched: _Watched, place: int, delay: float) -> None:
        """Asks one check of one run until it is cancelled."""
        check = watched.checks[place]
        known = watched.states[place].passed_once
        await asyncio.sleep(random.uniform(0, check.interval) if known else delay)
        asked = 0
        while True:
            result = await self._probe(check, watched.run)
            if self._watched.get(watched.run.id) is not watched:
                return  # the run ended while it was asked: what it said proves nothing of another
            asked += 1
            if result.counts:
                watched.answered_at[place] = _clock()
            before = watched.states[place]
            age = time.monotonic() - watched.since
            after = after_result(before, check, result, age=age)
            if after is not before:
                watched.states[place] = after
                told = watched.verdict
                self._judge(watched)
                self._trace_turn(watched, told)
            pause = pause_after(after, check, asked=asked)
            if after.passed_once and not before.passed_once:
                pause *= random.uniform(0.5, 1)
            if after.passed_once:
                pause = until_slot(check, pause=pause, now=time.monotonic())
            await asyncio.sleep(pause)

    async def _probe(self, check: Check, run: Run) -> ProbeResult:
        """One answer; whatever goes wrong in asking is a failed check, never a failed daemon."""
        prober = self._probers[type(check)]
        try:
            async with asyncio.timeout(check.connect_timeout + check.response_timeout + _GRACE):
                return await prober.probe(check, run)
        except TimeoutError:
            return ProbeResult(passed=False, detail="no answer in time")
        except Exception as error:  # noqa: BLE001 -- one check's fault must not end the others
            _log.error("check failed unexpectedly", exc_info=True, service=run.id.service)
            return ProbeResult(passed=False, detail=f"unexpected {type(error).__name__}: {error}")

    def _judge(self, watched: _Watched) -> None:
        """Sets the run's verdict anew and, if there is something to tell, sees to it that it is told."""
        before, run_id = watched.verdict, watched.run.id
        verdict, trouble = verdict_of(watched.states), trouble_of(watched.states)
        turned = (before.up, before.judged) != (verdict.up, verdict.judged)
        worded = turned or bool(trouble) != bool(watched.trouble)
        if run_id in self._verdicts and not worded:
            if (before.reason, watched.trouble) == (verdict.reason, trouble):
                return
            if time.monotonic() - watched.reason_at < _REASON_PAUSE:
                return
        if verdict.reason or trouble:
            watched.reason_at = time.monotonic()
        watched.verdict, watched.trouble = verdict, trouble
        if turned:
            _log_turn(run_id, verdict)
        self._verdicts[run_id] = verdict
        self._troubles.pop(run_id, None)
        if trouble:
            self._troubles[run_id] = trouble
        self._turned.set()

    def _trace_turn(self, watched: _Watched, before: Verdict) -> None:
        """Notes what the checks of an endpoint have come to think of it."""
        run, now = watched.run, watched.verdict
        if run.port and now.judged and (before.up, before.judged) != (now.up, now.judged):
            self._board.trace.note(
                service=run.id.service,
                endpoint=address_of(run).host_port,
                step="proven" if now.up else "failed",
                reason="checks passed" if now.up else now.reason,
            )

    def _trace_end(self, run: Run) -> None:
        """Notes that a run has ended whose endpoint is still published."""
        if run.port and run.id in self._board.published.value:
            self._board.trace.note(
                service=run.id.service,
                endpoint=address_of(run).host_port,
                step="ended",
                reason="its container ended" if run.id.container_id else "not bound here any more",
            )

    async def _tell(self) -> None:
        """Publishes what has turned: at once, or bundled when much turns. Never returns."""
        while True:
            await self._turned.wait()
            self._publish()
            await asyncio.sleep(_QUIET)

    def _publish(self) -> None:
        """Tells the other loops how things are."""
        self._turned.clear()
        self._board.verdicts.set(dict(self._verdicts))
        failing = {
            f"service {run_id.service}": f"instance {run_id.instance}: {trouble}"
            for run_id, trouble in sorted(self._troubles.items(), reverse=True)
        }
        self._board.problems.report("health", failing)


def _is_proven_now(watched: _Watched) -> bool:
    """True when the run has passed all of its checks by itself, and lately: within two of their intervals."""
    now = _clock()
    return is_proven(watched.states, watched.checks) and all(
        now - answered <= 2 * check.interval + check.connect_timeout + check.response_timeout + _GRACE
        for answered, check in zip(watched.answered_at, watched.checks, strict=True)
    )


def _clock() -> float:
    """Seconds that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _log_turn(run_id: RunId, verdict: Verdict) -> None:
    state = "up" if verdict.up else "down" if verdict.judged else "not yet judged"
    _log.info("service is " + state, service=run_id.service, instance=run_id.instance, reason=verdict.reason)
