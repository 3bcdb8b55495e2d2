"""What a machine runs as long as its deployers cannot read the store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orbitcontrol.agent.board import Board, Standing
from orbitcontrol.agent.rollouts import RolloutsLoop
from orbitcontrol.codec.keys import Keys
from orbitcontrol.model.configuration import EffectiveService
from orbitcontrol.model.rollouts import MachineDrain
from orbitcontrol.model.service import Container, Service
from orbitcontrol.statedir import StateDirectory
from support.loops import desired, running, until

WEB = EffectiveService(service=Service(name="web", container=Container(config={"Image": "web:1"})))


class Nobody:
    """No store, no engine: whoever asks, waits."""

    def __getattr__(self, name: str) -> Any:
        async def waits(*_: Any, **__: Any) -> None:
            await asyncio.Event().wait()

        return waits


@pytest.mark.parametrize(("drain", "count"), [(None, 1), (MachineDrain(), 0)])
async def test_without_its_store_a_machine_runs_what_it_knows_and_a_drained_one_nothing(
    tmp_path: Path, drain: MachineDrain | None, count: int
) -> None:
    board = Board()
    board.desired.set(desired(WEB))
    board.rollouts.standing.set(Standing(revision=1, drain=drain))
    nobody: Any = Nobody()
    loop = RolloutsLoop(
        board=board,
        store=nobody,
        keys=Keys(),
        hands=nobody,
        connector=nobody,
        files=StateDirectory(tmp_path / "state"),
        ttl=10,
        new_id=lambda: "i",
    )
    async with running(loop):
        await until(board.rollouts.aims, bool)
    assert len(board.rollouts.aims.value["web"]) == count
