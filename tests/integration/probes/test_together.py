"""All kinds of checks in one health loop: the bad ones do what they can, and the good ones do not notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from orbitcontrol.agent.board import Board
from orbitcontrol.agent.health import HealthLoop
from orbitcontrol.docker.checks import DockerChecks
from orbitcontrol.model.configuration import EffectiveService
from orbitcontrol.model.durations import Duration
from orbitcontrol.model.runs import Run, RunId, Verdict
from orbitcontrol.model.service import (
    Check,
    DockerCheck,
    ExecCheck,
    GrpcCheck,
    HttpCheck,
    Service,
    TcpCheck,
)
from orbitcontrol.ports import Prober
from orbitcontrol.probes.docker import DockerProber
from orbitcontrol.probes.exec import ExecProber
from orbitcontrol.probes.grpc import GrpcProber
from orbitcontrol.probes.http import HttpProber
from orbitcontrol.probes.tcp import TcpProber
from support.servers import answering, forever, full_backlog, serving, silent

pytestmark = pytest.mark.integration

PATIENCE = 60.0
UP = Verdict(up=True, judged=True)


@pytest_asyncio.fixture
async def board(tmp_path: Path) -> AsyncIterator[Board]:
    """The board of a health loop that has every prober, and a Docker engine that hangs."""
    board = Board()
    board.proven.set(frozenset())
    async with serving(silent, socket_path=tmp_path / "docker.sock"):
        docker = DockerChecks(f"unix://{tmp_path}/docker.sock")
        probers: dict[type, Prober] = {
            HttpCheck: HttpProber(),
            TcpCheck: TcpProber(),
            ExecCheck: ExecProber(docker),
            DockerCheck: DockerProber(docker),
            GrpcCheck: GrpcProber(),
        }
        task = asyncio.create_task(HealthLoop(board=board, probers=probers).run())
        yield board
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        for prober in probers.values():
            await prober.close()
        await docker.close()


def run_of(name: str, check: Check) -> Run:
    return Run(
        id=RunId(name, 1, f"{name}-container", "then"),
        effective=EffectiveService(service=Service(name=name, checks=(check,)), revision=""),
        host="127.0.0.1",
        port=80,
    )


async def test_checks_that_hang_flood_and_leak_delay_no_other(board: Board) -> None:
    often: dict[str, Any] = {"interval": Duration(0.1), "connect_timeout": Duration(0.3)}
    asked: list[bytes] = []
    async with (
        serving(silent) as hangs,
        serving(forever(b"HTTP/1.1 200 OK\r\n\r\n", b"flood" * 13000)) as floods,
        serving(forever(b"HTTP/1.1 200 OK\r\n\r\n", b"drip", pause=0.05)) as drips,
        serving(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", asked=asked)) as well,
        full_backlog() as full,
    ):
        bad: list[Check] = [
            HttpCheck(url=f"http://127.0.0.1:{port}/", expect_string="never", **often)
            for port in (hangs, floods, drips, full)
        ]
        bad += [
            TcpCheck(host_port=f"127.0.0.1:{full}", **often),
            TcpCheck(host_port="no-such-name.invalid:80", **often),
            GrpcCheck(host_port=f"127.0.0.1:{hangs}", **often),
            GrpcCheck(host_port=f"127.0.0.1:{floods}", **often),
            ExecCheck(command="trap '' TERM; sleep 600", **often),
            ExecCheck(command="exec yes", **often),
            ExecCheck(command="setsid sleep 600 & exit 1", **often),
            DockerCheck(**often),
            ExecCheck(command="true", in_container=True, **often),
        ]
        troubles = [run_of(f"bad-{number}", bad[number % len(bad)]) for number in range(3 * len(bad))]
        patience: dict[str, Any] = {"connect_timeout": Duration(5), "response_timeout": Duration(5)}
        url = f"http://127.0.0.1:{well}/"
        good = run_of("good", HttpCheck(url=url, interval=Duration(0.1), fall=1, **patience))
        board.runs.set((*troubles, good))

        def settled(verdicts: object) -> bool:
            judged = [board.verdicts.value.get(run.id) for run in troubles]
            down = [one for one in judged if one is not None and one.judged]
            # What Docker is asked for stays open: its silence says nothing.
            return len(down) == len(troubles) - 6 and board.verdicts.value.get(good.id) == UP

        assert await board.verdicts.wait_for(settled, timeout=PATIENCE), board.verdicts.value

        async def asked_in_time() -> bool:
            """Whether the good one is asked often enough, of its ten times a second, for five seconds."""
            before, begun = len(asked), asyncio.get_running_loop().time()
            lost = await board.verdicts.wait_for(lambda verdicts: verdicts[good.id] != UP, timeout=5)
            assert not lost, board.verdicts.value[good.id]
            return len(asked) - before > 4 * (asyncio.get_running_loop().time() - begun)

        async with asyncio.timeout(PATIENCE):  # a machine may be busy with others now and then
            while not await asked_in_time():
                pass
