from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from orbitcontrol.docker.checks import DockerChecks
from orbitcontrol.model.durations import Duration
from orbitcontrol.model.runs import ProbeResult, Run
from orbitcontrol.model.service import ExecCheck
from orbitcontrol.probes.exec import ExecProber
from support.scarcity import no_descriptors_left

pytestmark = pytest.mark.integration

LATE = 20.0
PATIENCE = 60.0


@pytest_asyncio.fixture
async def prober() -> AsyncIterator[ExecProber]:
    checks = DockerChecks("unix:///nonexistent/docker.sock")
    prober = ExecProber(checks)
    yield prober
    await prober.close()
    await checks.close()


async def ask(prober: ExecProber, run: Run, command: str | list[str], **fields: Any) -> ProbeResult:
    begun = time.monotonic()
    result = await prober.probe(ExecCheck(command=command, **fields), run)
    assert time.monotonic() - begun < LATE
    return result


async def until(holds: Callable[[], bool]) -> None:
    """Returns once it holds."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 -- processes tell nobody of their end
            await asyncio.sleep(0.02)


def runs(pid: int) -> bool:
    """True while the process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pids_in(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.mark.parametrize(
    ("command", "detail"),
    [
        ("exit 0", "the command ended with 0"),
        ("test $ENDPOINT_HOST:$ENDPOINT_PORT = 127.0.0.1:8080", "the command ended with 0"),
        (["true"], "the command ended with 0"),
        ("echo it is; echo broken >&2; exit 3", "the command ended with 3: it is broken"),
        (["sh", "-c", 'echo "$1"; exit 1', "x", "a b;c"], "the command ended with 1: a b;c"),
        ("kill -SEGV $$", "the command was ended by SIGSEGV"),
        ("printf 'a\\033[31m\\001b\\377'; exit 1", "the command ended with 1: a [31m b\ufffd"),
    ],
)
async def test_a_command_passes_when_it_ends_with_0(
    prober: ExecProber, run: Run, command: str | list[str], detail: str
) -> None:
    assert await ask(prober, run, command) == ProbeResult(passed="with 0" in detail, detail=detail)


async def test_a_program_that_is_not_there_is_told(prober: ExecProber, run: Run) -> None:
    for command in ("no-such-program", ["no-such-program", "x"], ["/no/such/program"]):
        result = await ask(prober, run, command)
        assert not result.passed
        assert "127" in result.detail
        assert "not found" in result.detail


async def test_it_gets_nothing_of_the_daemons(
    prober: ExecProber, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORBIT_STORE_PASSWORD", "secret")
    kept, other = os.pipe()
    os.set_inheritable(kept, True)
    try:
        seen = await ask(
            prober, run, "env | sort | cut -d= -f1; ls /proc/self/fd; cat; readlink /proc/$$/cwd; exit 1"
        )
    finally:
        os.close(kept)
        os.close(other)
    words = seen.detail.removeprefix("the command ended with 1: ").split()
    # ls has a descriptor of its own for the directory that it reads; the shell adds PWD.
    assert words == ["ENDPOINT_HOST", "ENDPOINT_PORT", "ORBIT_CHECK", "PATH", "PWD", "0", "1", "2", "3", "/"]


async def test_a_command_that_hangs_ends_with_all_its_children(
    prober: ExecProber, run: Run, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    command = f"""
        trap '' TERM INT HUP
        (echo $$ >>{pids}; sh -c 'echo $$ >>{pids}; exec sleep 600' & (sleep 600 & echo $! >>{pids}) &)
        echo waiting
        exec sleep 600
    """
    result = await ask(prober, run, command)
    assert result.detail == "the command did not end within 0.6 s: waiting"
    assert len(pids_in(pids)) == 3
    await until(lambda: not any(runs(pid) for pid in pids_in(pids)))


async def test_what_left_for_a_session_of_its_own_is_found(
    prober: ExecProber, run: Run, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    escape = f"setsid sh -c 'echo $$ >>{pids}; exec sleep 600' >/dev/null 2>&1 &"
    given_up = asyncio.create_task(ask(prober, run, f"{escape} sleep 600"))
    ended = await ask(prober, run, f"{escape} while ! test -s {pids}; do sleep 0.01; done")
    assert ended.passed
    assert not (await given_up).passed
    await until(lambda: len(pids_in(pids)) == 2)
    await until(lambda: not any(runs(pid) for pid in pids_in(pids)))


async def test_children_that_hold_its_output_do_not_make_it_last(
    prober: ExecProber, run: Run, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    result = await ask(prober, run, f"sleep 600 & echo $! >{pids}; setsid sleep 601 & echo fine")
    assert result == ProbeResult(passed=True, detail="the command ended with 0")
    await until(lambda: not any(runs(pid) for pid in pids_in(pids)))


@pytest.mark.parametrize("end", ["exit 0", "exec env -i sleep 600"])
async def test_what_does_not_carry_its_environment_ends_with_it(
    prober: ExecProber, run: Run, tmp_path: Path, end: str
) -> None:
    pids = tmp_path / "pids"
    await ask(prober, run, f"env -i sleep 600 & echo $$ $! >{pids}; {end}")
    assert len(pids_in(pids)) == 2
    await until(lambda: not any(runs(pid) for pid in pids_in(pids)))


async def test_gigabytes_of_output_end_the_command(prober: ExecProber, run: Run) -> None:
    result = await ask(prober, run, "echo begin; exec yes $$")
    reason, _, said = result.detail.partition(": ")
    assert reason == "the command printed more than 1 MiB"
    assert said.startswith("begin ")
    assert len(said) < 500
    pid = int(said.split()[1])
    await until(lambda: not runs(pid))


async def test_the_beginning_and_the_end_of_long_output_are_told(prober: ExecProber, run: Run) -> None:
    result = await ask(prober, run, "echo begin; seq 10000; echo end; exit 1", connect_timeout=Duration(2))
    said = result.detail.removeprefix("the command ended with 1: ")
    assert said.startswith("begin 1 2 3")
    assert said.endswith("9999 10000 end")
    assert len(said) < 500


async def test_a_command_may_close_its_output_and_go_on(prober: ExecProber, run: Run) -> None:
    assert (await ask(prober, run, "exec >&- 2>&-; sleep 0.1; exit 0")).passed


async def test_a_cancelled_check_leaves_nothing(prober: ExecProber, run: Run, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = f"sleep 600 & echo $$ $! >{pids}; wait"
    task = asyncio.create_task(ask(prober, run, command, response_timeout=Duration(600)))
    await until(lambda: len(pids_in(pids)) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not any(runs(pid) for pid in pids_in(pids)))


async def test_closing_leaves_nothing(run: Run, tmp_path: Path) -> None:
    checks = DockerChecks("unix:///nonexistent/docker.sock")
    prober = ExecProber(checks)
    pids = tmp_path / "pids"
    command = f"setsid sleep 600 >/dev/null & echo $! >{pids}; while ! test -s {pids}; do :; done"
    assert (await ask(prober, run, command)).passed
    await prober.close()
    await checks.close()
    await until(lambda: not any(runs(pid) for pid in pids_in(pids)))


async def test_no_process_and_no_descriptor_stays_of_a_hundred_checks(prober: ExecProber, run: Run) -> None:
    def open_here() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def children() -> int:
        return len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    before = open_here(), children()
    commands = ["true", "false", "sleep 600", "yes"]
    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(prober.probe(ExecCheck(command=commands[number % 4] + f" # {number}"), run))
    await until(lambda: (open_here(), children()) == before)


async def test_a_command_with_a_null_character_fails_like_any_other(prober: ExecProber, run: Run) -> None:
    assert "null character" in (await ask(prober, run, "echo \0")).detail


async def test_a_machine_without_file_descriptors_says_nothing_about_its_services(
    prober: ExecProber, run: Run
) -> None:
    with no_descriptors_left():
        result = await ask(prober, run, "true")
    assert (result.passed, result.counts) == (False, False)
    assert (await ask(prober, run, "true")).passed


async def test_commands_that_hang_and_flood_delay_no_other(prober: ExecProber, run: Run) -> None:
    async def bad(command: str) -> None:
        while not enough.is_set():
            assert not (await ask(prober, run, command)).passed

    enough = asyncio.Event()
    commands = ["sleep 600 # {}", "yes # {}", "(setsid sleep 600 &) ; sleep 600 # {}"]
    async with asyncio.TaskGroup() as group:
        for number in range(15):
            group.create_task(bad(commands[number % 3].format(number)))
        for _ in range(4):
            assert (await ask(prober, run, "true", response_timeout=Duration(5))).passed
        enough.set()


async def test_a_command_that_cannot_be_killed_is_not_started_again(
    prober: ExecProber, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As when it waits for a dead network drive: here the kill does nothing."""
    pids = tmp_path / "pids"
    command = f"echo $$ >>{pids}; exec sleep 600"
    with monkeypatch.context() as patched:
        patched.setattr("orbitcontrol.probes.commands._Command._kill_group", lambda _: None)
        patched.setattr("orbitcontrol.probes.leftovers.Leftovers._kill", lambda *_: None)
        await ask(prober, run, command)
        again = await ask(prober, run, command)
        assert again.detail == "the command of the check before was killed, and has not ended after 0.6 s"
        assert (await ask(prober, run, "true")).passed
    assert len(pids_in(pids)) == 1
    os.kill(pids_in(pids)[0], signal.SIGKILL)
    await until(lambda: not runs(pids_in(pids)[0]))


async def test_a_service_without_a_container_has_nothing_to_run_a_command_in(
    prober: ExecProber, run: Run
) -> None:
    result = await ask(prober, run, "true", in_container=True)
    assert result.detail == "InContainer, but the service has no container"
