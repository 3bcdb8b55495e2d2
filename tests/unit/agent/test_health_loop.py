"""The health loop with probers that answer what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from time import CLOCK_BOOTTIME, clock_gettime

import pytest
import pytest_asyncio
from msgspec import structs

from orbitcontrol.agent.board import Board
from orbitcontrol.agent.health import HealthLoop
from orbitcontrol.model.configuration import EffectiveService
from orbitcontrol.model.durations import Duration
from orbitcontrol.model.runs import ProbeResult, Run, RunId, Verdict
from orbitcontrol.model.service import Check, DummyCheck, Service
from support.containers import PATIENCE
from support.loops import running

PASS = ProbeResult(passed=True)
FAIL = ProbeResult(passed=False, detail="refused")
UP = Verdict(up=True, judged=True)


class Oracle:
    """A prober that does what ``say`` does, and counts."""

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}
        self.answered: dict[str, int] = {}
        self._change = asyncio.Condition()

    async def say(self, run: Run) -> ProbeResult:
        return PASS

    async def probe(self, check: Check, run: Run) -> ProbeResult:
        await self._count(self.asked, run)
        try:
            return await self.say(run)
        finally:
            await self._count(self.answered, run)

    async def _count(self, counts: dict[str, int], run: Run) -> None:
        async with self._change:
            counts[run.id.service] = counts.get(run.id.service, 0) + 1
            self._change.notify_all()

    async def until(self, counts: dict[str, int], service: str, number: int) -> None:
        async with asyncio.timeout(PATIENCE), self._change:
            await self._change.wait_for(lambda: counts.get(service, 0) >= number)

    async def close(self) -> None:
        """Nothing to close."""


class Health:
    """A health loop at work, and every value that its verdicts had."""

    def __init__(self, *, store: bool = True) -> None:
        self.board = Board()
        self.board.proven.set(frozenset() if store else None)
        self.oracle = Oracle()
        self.told: list[object] = []
        self.loop = HealthLoop(board=self.board, probers={DummyCheck: self.oracle}, patience=0)
        setter = self.board.verdicts.set

        def set_and_record(value: object) -> None:
            if value != self.board.verdicts.value:
                self.told.append(value)
            setter(value)  # type: ignore[arg-type]

        self.board.verdicts.set = set_and_record  # type: ignore[method-assign]

    def says(self, say: Callable[[Run], Awaitable[ProbeResult]]) -> None:
        self.oracle.say = say  # type: ignore[method-assign, assignment]

    def runs(self, *runs: Run) -> None:
        self.board.runs.set(runs)

    async def verdict(self, run: Run, expected: Verdict | None) -> None:
        holds = await self.board.verdicts.wait_for(
            lambda verdicts: verdicts.get(run.id) == expected, timeout=PATIENCE
        )
        assert holds, self.board.verdicts.value

    async def trouble(self, service: str, reason: str | None) -> None:
        def reasons() -> list[str]:
            problems = self.board.problems.cell.value
            return [one.reason for one in problems if one.subject == f"service {service}"]

        expected = [] if reason is None else [reason]
        holds = await self.board.problems.cell.wait_for(lambda _: reasons() == expected, timeout=PATIENCE)
        assert holds, reasons()


@pytest_asyncio.fixture
async def health() -> AsyncIterator[Health]:
    health = Health()
    async with running(health.loop):
        yield health


@pytest_asyncio.fixture
async def alone() -> AsyncIterator[Health]:
    """A health loop whose daemon started without its store."""
    health = Health(store=False)
    async with running(health.loop):
        yield health


def run_of(
    name: str,
    *,
    started_at: str = "1",
    rise: int = 1,
    fall: int = 2,
    interval: float = 0.02,
    start_period: float = 0,
) -> Run:
    check = DummyCheck(rise=rise, fall=fall, interval=Duration(interval), start_period=Duration(start_period))
    service = Service(name=name, checks=(check,))
    return Run(
        id=RunId(name, 1, "c1", started_at),
        effective=EffectiveService(service=service, revision=""),
        host="127.0.0.1",
        port=80,
    )


async def test_answers_that_change_no_verdict_are_told_to_nobody(health: Health) -> None:
    web, api = run_of("web", rise=3), run_of("api", fall=3)

    async def say(run: Run) -> ProbeResult:
        return FAIL if run.id.service == "api" and health.oracle.asked["api"] % 2 else PASS

    health.says(say)
    health.runs(web, api)
    await health.verdict(web, UP)
    await health.verdict(api, UP)
    told = len(health.told)
    for service in ("web", "api"):
        await health.oracle.until(health.oracle.asked, service, 40)
    assert len(health.told) == told


async def test_a_reason_that_is_never_the_same_twice_is_told_once(health: Health) -> None:
    web = run_of("web")

    async def say(run: Run) -> ProbeResult:
        return ProbeResult(passed=False, detail=f"attempt {health.oracle.asked['web']}")

    health.says(say)
    health.runs(web)
    await health.verdict(web, Verdict(up=False, judged=True, reason="attempt 2"))
    await health.oracle.until(health.oracle.asked, "web", 30)
    assert health.board.verdicts.value[web.id].reason == "attempt 2"


async def test_a_new_run_is_asked_at_once_and_again_and_again_long_before_its_interval(
    health: Health,
) -> None:
    answers = iter([FAIL, FAIL])

    async def say(run: Run) -> ProbeResult:
        return next(answers, PASS)

    health.says(say)
    web = run_of("web", interval=3600)
    health.runs(web)
    await health.verdict(web, UP)
    assert health.oracle.asked["web"] == 3


async def test_failures_within_the_start_period_take_no_decision(health: Health) -> None:
    async def say(run: Run) -> ProbeResult:
        return FAIL

    health.says(say)
    web = run_of("web", fall=1, start_period=3600)
    health.runs(web)
    await health.oracle.until(health.oracle.answered, "web", 5)
    assert not health.board.verdicts.value[web.id].judged


async def test_a_check_that_never_answers_delays_no_other(health: Health) -> None:
    async def say(run: Run) -> ProbeResult:
        if run.id.service == "stuck":
            await asyncio.Event().wait()
        return PASS

    health.says(say)
    web = run_of("web")
    health.runs(run_of("stuck"), web)
    await health.verdict(web, UP)
    await health.oracle.until(health.oracle.asked, "web", 20)
    assert health.oracle.asked["stuck"] == 1


async def test_what_was_proven_of_a_run_says_nothing_about_the_next_one(health: Health) -> None:
    first, second = run_of("web", rise=3), run_of("web", rise=3, started_at="2")
    stop = asyncio.Event()

    async def say(run: Run) -> ProbeResult:
        if run.id == first.id and health.oracle.asked["web"] > 2:
            await stop.wait()
        if run.id == second.id:
            await asyncio.Event().wait()
        return PASS

    health.says(say)
    health.runs(first)
    await health.oracle.until(health.oracle.asked, "web", 3)
    health.runs(second)
    await health.verdict(second, Verdict(up=False, judged=False))
    stop.set()
    await health.oracle.until(health.oracle.asked, "web", 4)
    assert first.id not in health.board.verdicts.value
    assert health.board.verdicts.value[second.id] == Verdict(up=False, judged=False)


async def test_an_answer_that_arrives_after_the_end_of_its_run_does_not_count(health: Health) -> None:
    """Even when the prober does not let itself be interrupted."""
    web = run_of("web", rise=2)
    stop = asyncio.Event()

    async def say(run: Run) -> ProbeResult:
        if health.oracle.asked["web"] == 2:
            while not stop.is_set():
                with suppress(asyncio.CancelledError):
                    await stop.wait()
        elif health.oracle.asked["web"] > 2:
            await asyncio.Event().wait()
        return PASS

    health.says(say)
    health.runs(web)
    await health.oracle.until(health.oracle.asked, "web", 2)
    health.runs()
    await health.verdict(web, None)
    health.runs(web)
    await health.oracle.until(health.oracle.asked, "web", 3)
    stop.set()
    await health.oracle.until(health.oracle.answered, "web", 2)
    assert health.board.verdicts.value == {web.id: Verdict(up=False, judged=False)}


async def test_an_answer_that_says_nothing_takes_nobody_out_but_is_told(health: Health) -> None:
    blind = ProbeResult(passed=False, detail="no file descriptors left", counts=False)
    answer = PASS

    async def say(run: Run) -> ProbeResult:
        return answer

    health.says(say)
    web = run_of("web", fall=1)
    health.runs(web)
    await health.verdict(web, UP)
    answer = blind
    await health.trouble(
        "web",
        "instance 1: cannot be checked now, and counts as up as before: no file descriptors left",
    )
    assert health.board.verdicts.value[web.id] == UP
    answer = PASS
    await health.trouble("web", None)


async def test_changed_checks_begin_with_what_the_run_was_before(health: Health) -> None:
    async def say(run: Run) -> ProbeResult:
        return FAIL

    web, down = run_of("web"), Verdict(up=False, judged=True, reason="refused")
    await _up_then_changed(health, web)
    health.says(say)
    await health.verdict(web, down)
    health.runs(_with_interval(web, 30))
    await health.verdict(web, Verdict(up=False, judged=False, reason="refused"))


async def _up_then_changed(health: Health, run: Run) -> None:
    health.runs(run)
    await health.verdict(run, UP)
    told = len(health.told)
    health.runs(_with_interval(run, 0.03))
    await health.oracle.until(health.oracle.asked, run.id.service, 10)
    assert len(health.told) == told


def _with_interval(run: Run, interval: float) -> Run:
    check = DummyCheck(interval=Duration(interval))
    service = structs.replace(run.effective.service, checks=(check,))
    return structs.replace(run, effective=structs.replace(run.effective, service=service))


async def test_runs_that_are_found_together_are_not_asked_together(health: Health) -> None:
    loop = asyncio.get_running_loop()
    asked: dict[str, list[float]] = {}

    async def say(run: Run) -> ProbeResult:
        asked.setdefault(run.id.service, []).append(loop.time())
        return PASS

    health.says(say)
    names = [f"s{number}" for number in range(50)]
    health.runs(*(run_of(name, interval=0.5) for name in names))
    for name in names:
        await health.oracle.until(health.oracle.asked, name, 2)
    seconds = sorted(asked[name][1] for name in names)
    assert seconds[-1] - seconds[0] > 0.1


async def test_a_run_that_a_resumed_session_has_published_is_up_before_it_was_asked(health: Health) -> None:
    web = run_of("web")
    health.says(never)
    published_before(health, web)
    await health.verdict(web, UP)


async def test_a_run_that_comes_back_after_its_withdrawal_needs_new_proof(health: Health) -> None:
    web = run_of("web")
    health.says(never)
    published_before(health, web)
    await health.verdict(web, UP)
    health.runs()
    health.board.published.set(frozenset())
    await health.verdict(web, None)
    health.runs(web)
    await health.verdict(web, Verdict(up=False, judged=False))


async def test_a_run_that_was_withdrawn_before_it_was_first_seen_needs_proof(health: Health) -> None:
    web = run_of("web")
    health.says(never)
    published_before(health, web)
    health.board.published.set(frozenset())
    await health.verdict(web, Verdict(up=False, judged=False))


async def never(_: Run) -> ProbeResult:
    await asyncio.Event().wait()
    raise AssertionError


def published_before(health: Health, run: Run) -> None:
    """As a daemon finds it that resumes its session."""
    health.board.published.set(frozenset({run.id}))
    health.board.proven.set(frozenset({run.id}))
    health.runs(run)


async def test_without_its_store_a_daemon_checks_what_it_finds_and_presumes_what_it_had_published(
    alone: Health,
) -> None:
    web, api = run_of("web", fall=3), run_of("api", fall=3)
    alone.board.stands_for.set({"endpoint": web.id})
    alone.says(never)
    alone.runs(web, api)
    await alone.verdict(web, UP)
    await alone.verdict(api, Verdict(up=False, judged=False))
    assert alone.board.presumed.value == {web.id}
    for service in ("web", "api"):
        await alone.oracle.until(alone.oracle.asked, service, 1)


async def test_what_was_presumed_stays_up_when_the_session_goes_on(alone: Health) -> None:
    web = run_of("web")
    await presumed(alone, web)
    told = len(alone.told)
    alone.board.published.set(frozenset({web.id}))
    alone.board.proven.set(frozenset({web.id}))
    assert await alone.board.presumed.wait_for(lambda runs: not runs, timeout=PATIENCE)
    assert len(alone.told) == told


async def test_what_was_presumed_needs_proof_when_the_lease_was_lost(alone: Health) -> None:
    web = run_of("web", rise=2)
    await presumed(alone, web)
    alone.board.proven.set(frozenset())
    await alone.verdict(web, Verdict(up=False, judged=False))
    alone.says(passes)
    await alone.oracle.until(alone.oracle.answered, "web", 2)
    await alone.verdict(web, UP)


async def test_what_was_presumed_and_has_passed_since_needs_no_other_proof(alone: Health) -> None:
    web = run_of("web", rise=2)
    alone.board.stands_for.set({"endpoint": web.id})
    alone.runs(web)
    await alone.oracle.until(alone.oracle.answered, "web", 3)
    told = len(alone.told)
    alone.board.proven.set(frozenset())
    assert await alone.board.presumed.wait_for(lambda runs: not runs, timeout=PATIENCE)
    assert len(alone.told) == told


async def test_a_lease_lost_while_checks_went_on_needs_no_other_proof(health: Health) -> None:
    web = run_of("web", rise=2)
    health.runs(web)
    await health.oracle.until(health.oracle.answered, "web", 3)
    await health.verdict(web, UP)
    told = len(health.told)
    health.board.presumed.set(frozenset({web.id}))
    assert await health.board.presumed.wait_for(lambda runs: not runs, timeout=PATIENCE)
    assert len(health.told) == told


async def test_a_lease_lost_in_sleep_needs_proof_again(
    health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = run_of("web", rise=2)
    health.runs(web)
    await health.verdict(web, UP)
    health.says(never)
    await health.oracle.until(health.oracle.asked, "web", health.oracle.answered["web"] + 1)
    woken = clock_gettime(CLOCK_BOOTTIME) + 3600
    monkeypatch.setattr("orbitcontrol.agent.health._clock", lambda: woken)
    health.board.presumed.set(frozenset({web.id}))
    await health.verdict(web, Verdict(up=False, judged=False))
    assert health.board.presumed.value == frozenset()
    health.says(passes)
    await health.verdict(web, UP)


async def presumed(health: Health, run: Run) -> None:
    """Up without having been asked."""
    health.board.stands_for.set({"endpoint": run.id})
    health.says(never)
    health.runs(run)
    await health.verdict(run, UP)


async def passes(_: Run) -> ProbeResult:
    return PASS
