import asyncio

from orbitcontrol.agent.board import Board
from orbitcontrol.agent.health import HealthLoop
from orbitcontrol.model.runs import ProbeResult, Run
from orbitcontrol.model.service import Check, DummyCheck
from support.loops import RUN, running, until


class Silent:
    """Answers no check."""

    async def probe(self, check: Check, run: Run) -> ProbeResult:
        await asyncio.Event().wait()
        raise AssertionError

    async def close(self) -> None: ...


def loop_with_a_published_run(board: Board) -> HealthLoop:
    board.published.set(frozenset({RUN.id}))
    board.proven.set(frozenset({RUN.id}))
    board.runs.set((RUN,))
    return HealthLoop(board=board, probers={DummyCheck: Silent()})


async def test_a_run_that_a_resumed_session_has_published_is_up_before_it_was_asked() -> None:
    board = Board()
    async with running(loop_with_a_published_run(board)):
        verdicts = await until(board.verdicts, bool)
        assert verdicts[RUN.id].up


async def test_a_run_that_comes_back_after_its_withdrawal_needs_new_proof() -> None:
    board = Board()
    async with running(loop_with_a_published_run(board)):
        await until(board.verdicts, bool)
        board.runs.set(())
        board.published.set(frozenset())
        await until(board.verdicts, lambda verdicts: not verdicts)
        board.runs.set((RUN,))
        verdicts = await until(board.verdicts, bool)
        assert not verdicts[RUN.id].up


async def test_a_run_that_was_withdrawn_before_it_was_first_seen_needs_proof() -> None:
    board = Board()
    loop = loop_with_a_published_run(board)
    board.published.set(frozenset())
    async with running(loop):
        verdicts = await until(board.verdicts, bool)
        assert not verdicts[RUN.id].up
