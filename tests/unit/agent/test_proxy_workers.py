"""What a machine tells of HAProxy's leaving processes: looked at while any leaves, told when it changes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping

import pytest

from orbitcontrol.agent.board import Board
from orbitcontrol.agent.proxy_workers import ProxyWorkersLoop
from orbitcontrol.codec.times import since_epoch
from orbitcontrol.errors import HAProxyError
from orbitcontrol.model.state import ProxyWorkers
from orbitcontrol.planning.leaving_workers import LeavingWorker
from support.loops import running, until


class Workers:
    """Says what it is told to say: at each look the next answer, at last the last one again and again."""

    def __init__(self, *answers: dict[int, float] | str) -> None:
        self._answers = list(answers)
        self.looks: list[float] = []
        self.looked = asyncio.Condition()

    async def leaving(self) -> tuple[LeavingWorker, ...]:
        async with self.looked:
            self.looks.append(asyncio.get_running_loop().time())
            self.looked.notify_all()
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, str):
            raise HAProxyError(answer)
        return tuple(LeavingWorker(pid=pid, seconds=seconds) for pid, seconds in answer.items())

    async def unquiet(self, servers: Mapping[str, str], *, present: str) -> Mapping[str, str]:
        raise NotImplementedError

    async def looked_at(self, times: int) -> None:
        async with asyncio.timeout(20), self.looked:
            await self.looked.wait_for(lambda: len(self.looks) >= times)


@pytest.fixture
def board() -> Board:
    return Board()


def loop(board: Board, workers: Workers, *, pause: float = 0.001) -> ProxyWorkersLoop:
    return ProxyWorkersLoop(board=board, workers=workers, first_pause=pause, longest_pause=4 * pause)


def counts(board: Board) -> list[int | None]:
    """What the cell will have said, from now on."""
    said: list[int | None] = []
    set_value = board.proxy_workers.set

    def remember(value: ProxyWorkers | None) -> None:
        said.append(value.leaving if value else None)
        set_value(value)

    board.proxy_workers.set = remember  # type: ignore[method-assign]
    return said


async def test_what_is_gone_at_the_second_look_is_never_told(board: Board) -> None:
    said, workers = counts(board), Workers({7: 0}, {8: 0}, {})
    async with running(loop(board, workers)):
        await workers.looked_at(3)
    assert said == []


async def test_what_stays_is_told_with_its_beginning_and_again_when_the_number_changes(board: Board) -> None:
    said, workers = counts(board), Workers({7: 60}, {7: 60, 8: 0}, {7: 90, 8: 1}, {8: 2}, {8: 3}, {})
    async with running(loop(board, workers)):
        first = await until(board.proxy_workers, bool)
        await workers.looked_at(6)
        await until(board.proxy_workers, lambda value: value is None)
    assert said == [1, 2, 1, None]
    assert first is not None
    assert first.since.endswith("Z")
    assert since_epoch(first.since) > 0


async def test_an_age_alone_is_told_once(board: Board) -> None:
    said, workers = counts(board), Workers({7: 10}, {7: 20}, {7: 30}, {7: 40}, {7: 50})
    async with running(loop(board, workers)):
        await workers.looked_at(6)
    assert said == [1]


async def test_pauses_grow_while_any_leaves_and_begin_anew_with_a_reload(board: Board) -> None:
    workers = Workers({7: 0})
    kept = loop(board, workers, pause=0.02)
    async with running(kept):
        await workers.looked_at(5)
        kept.look()
        await workers.looked_at(7)
    # at once, then after 20, 40, 80 and 80 ms; at once with the reload, then after 20 again
    gaps = [later - earlier for earlier, later in itertools.pairwise(workers.looks)]
    assert all(gap >= least for gap, least in zip(gaps, (0.02, 0.04, 0.08, 0.08), strict=False))
    assert gaps[4] < 0.08
    assert 0.02 <= gaps[5] < 0.08


async def test_nobody_is_asked_while_nobody_leaves(board: Board) -> None:
    workers = Workers({7: 0}, {}, {7: 0}, {})
    kept = loop(board, workers)
    async with running(kept):
        await workers.looked_at(2)
        await asyncio.sleep(0.05)  # many times the pause
        assert len(workers.looks) == 2
        kept.look()
        await workers.looked_at(4)
        await asyncio.sleep(0.05)
        assert len(workers.looks) == 4


async def test_a_master_that_does_not_answer_is_a_problem_and_asked_again(board: Board) -> None:
    workers = Workers("no answer", {7: 0}, {7: 1})
    async with running(loop(board, workers)):
        found = await until(board.problems.cell, bool)
        assert [problem.reason for problem in found] == ["no answer"]
        await until(board.problems.cell, lambda problems: not problems)
        await until(board.proxy_workers, bool)
