from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec import structs

from orbitcontrol.docker.checks import DockerChecks
from orbitcontrol.model.durations import Duration
from orbitcontrol.model.runs import ProbeResult, Run, RunId
from orbitcontrol.model.service import DockerCheck, ExecCheck
from orbitcontrol.probes.docker import DockerProber
from orbitcontrol.probes.exec import ExecProber
from support.docker import Engine, way_to
from support.servers import serving, silent

pytestmark = pytest.mark.integration

PATIENT: dict[str, Any] = {"connect_timeout": Duration(10), "response_timeout": Duration(10)}
"""For what must be answered, however busy the engine is."""
PATIENCE = 60.0


@pytest_asyncio.fixture
async def checks(engine: Engine) -> AsyncIterator[DockerChecks]:
    checks = DockerChecks(engine.host)
    yield checks
    await checks.close()


@pytest.fixture
def docker(checks: DockerChecks) -> DockerProber:
    return DockerProber(checks)


@pytest_asyncio.fixture
async def inside(checks: DockerChecks) -> AsyncIterator[ExecProber]:
    prober = ExecProber(checks)
    yield prober
    await prober.close()


def started(engine: Engine, run: Run, *options: str, command: str = "sleep 600") -> Run:
    """A run of a container that runs the command."""
    image = engine.image("orbit-test/web:1")
    container = engine.docker("run", "--detach", *options, image, "sh", "-c", command)
    at = engine.inspect(container, "{{.State.StartedAt}}")
    return structs.replace(run, id=RunId("web", 1, container, at))


async def until(ask: Callable[[], Awaitable[ProbeResult]], begins: str) -> ProbeResult:
    """The first answer with such a beginning."""
    async with asyncio.timeout(PATIENCE):
        while not (result := await ask()).detail.startswith(begins):  # noqa: ASYNC110 -- it is what is tested
            await asyncio.sleep(0.05)
    return result


async def test_it_is_what_docker_says(docker: DockerProber, engine: Engine, run: Run) -> None:
    health = ["--health-interval=200ms", "--health-retries=1", "--health-cmd"]
    web = started(engine, run, *health, "echo looked; cat /well")
    check = DockerCheck(**PATIENT)

    async def ask() -> ProbeResult:
        return await docker.probe(check, web)

    ill = await until(ask, "Docker says unhealthy")
    assert (ill.passed, ill.counts) == (False, True)
    assert "looked" in ill.detail
    assert "can't open '/well'" in ill.detail
    engine.docker("exec", web.id.container_id, "sh", "-c", ">/well")
    assert (await until(ask, "Docker says healthy")).passed


async def test_starting_decides_nothing(docker: DockerProber, engine: Engine, run: Run) -> None:
    web = started(engine, run, "--health-interval=60s", "--health-cmd", "true")
    result = await docker.probe(DockerCheck(**PATIENT), web)
    assert (result.passed, result.counts) == (False, False)
    assert result.detail == "Docker says starting: its first health check has not passed yet"


async def test_a_container_without_a_healthcheck_fails(
    docker: DockerProber, engine: Engine, run: Run
) -> None:
    for options in ([], ["--no-healthcheck"]):
        web = started(engine, run, *options)
        result = await docker.probe(DockerCheck(**PATIENT), web)
        assert (result.passed, result.counts) == (False, True)
        assert "has no HEALTHCHECK" in result.detail
    nowhere = await docker.probe(DockerCheck(**PATIENT), run)
    assert nowhere.detail == "the service has no container whose health Docker knows"


async def test_another_start_of_the_container_is_not_this_run(
    docker: DockerProber, engine: Engine, run: Run
) -> None:
    web = started(engine, run, "--health-interval=100ms", "--health-cmd", "true")
    engine.docker("restart", "--time", "0", web.id.container_id)
    result = await docker.probe(DockerCheck(**PATIENT), web)
    assert result == ProbeResult(passed=False, detail="the container was started anew", counts=False)


async def test_a_container_that_is_gone_fails(
    docker: DockerProber, inside: ExecProber, engine: Engine, run: Run
) -> None:
    web = started(engine, run)
    engine.docker("rm", "--force", web.id.container_id)
    check = ExecCheck(command="true", in_container=True, **PATIENT)
    for result in (await docker.probe(DockerCheck(**PATIENT), web), await inside.probe(check, web)):
        assert (result.passed, result.counts) == (False, True)
        assert "No such container" in result.detail


async def test_an_engine_that_is_gone_or_hangs_says_nothing_about_its_containers(
    engine: Engine, run: Run, tmp_path: Path
) -> None:
    web = structs.replace(run, id=RunId("web", 1, "c1", "then"))
    async with serving(silent, socket_path=tmp_path / "silent.sock"):
        for host, reason in (
            (f"unix://{tmp_path}/gone.sock", "cannot be asked: it does not answer"),
            (f"unix://{tmp_path}/silent.sock", "within 0.6 s"),
        ):
            checks = DockerChecks(host)
            inside = ExecProber(checks)
            check = ExecCheck(command="true", in_container=True)
            for result in (
                await DockerProber(checks).probe(DockerCheck(), web),
                await inside.probe(check, web),
            ):
                assert (result.passed, result.counts) == (False, False)
                assert reason in result.detail
            await inside.close()
            await checks.close()


async def test_it_asks_again_after_the_connection_was_cut(engine: Engine, run: Run, tmp_path: Path) -> None:
    web = started(engine, run, "--health-interval=100ms", "--health-cmd", "true")
    async with way_to(engine, tmp_path / "way.sock") as way:
        checks = DockerChecks(f"unix://{tmp_path}/way.sock")

        async def ask() -> ProbeResult:
            return await DockerProber(checks).probe(DockerCheck(**PATIENT), web)

        await until(ask, "Docker says healthy")
        way.block()
        assert not (await ask()).counts
        way.unblock()
        await until(ask, "Docker says healthy")
        await checks.close()


@pytest.mark.parametrize(
    ("command", "detail"),
    [
        ("cat /www/index.html; exit 4", "the command ended with 4: orbit-test/web:1"),
        ('echo "$ENDPOINT_HOST $ENDPOINT_PORT $OWN"; exit 1', "the command ended with 1: 127.0.0.1 8080 own"),
        (["sh", "-c", "echo err >&2; exit 5"], "the command ended with 5: err"),
        ("kill -9 $$", "the command ended with 137"),
        (["true"], "the command ended with 0"),
        ("exec >&- 2>&-; sleep 0.3; exit 0", "the command ended with 0"),
    ],
)
async def test_a_command_runs_inside_the_container(
    inside: ExecProber, engine: Engine, run: Run, command: str | list[str], detail: str
) -> None:
    web = started(engine, run, "--env", "OWN=own")
    result = await inside.probe(ExecCheck(command=command, in_container=True, **PATIENT), web)
    assert result == ProbeResult(passed="with 0" in detail, detail=detail)


async def test_a_program_that_is_not_in_the_container_is_told(
    inside: ExecProber, engine: Engine, run: Run
) -> None:
    web = started(engine, run)
    result = await inside.probe(ExecCheck(command=["nothing"], in_container=True, **PATIENT), web)
    assert not result.passed
    assert "not found" in result.detail


async def test_a_command_inside_that_hangs_ends_with_all_its_children(
    inside: ExecProber, engine: Engine, run: Run
) -> None:
    web = started(engine, run)
    command = "trap '' TERM; (sh -c 'sleep 601' &); sleep 602 & echo waiting; sleep 603"
    check = ExecCheck(command=command, in_container=True, connect_timeout=Duration(3))
    result = await inside.probe(check, web)
    assert result.detail == "the command did not end within 3.3 s: waiting"
    await _only_its_own(engine, web)


async def test_a_command_inside_that_floods_ends(inside: ExecProber, engine: Engine, run: Run) -> None:
    web = started(engine, run)
    command = "while :; do cat /bin/busybox; done"
    result = await inside.probe(ExecCheck(command=command, in_container=True, **PATIENT), web)
    assert result.detail.startswith("the command printed more than 1 MiB")
    await _only_its_own(engine, web)


async def _only_its_own(engine: Engine, run: Run) -> None:
    """Returns once the container runs nothing but its first process."""
    async with asyncio.timeout(PATIENCE):
        while len(engine.docker("top", run.id.container_id).splitlines()) > 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_command_that_cannot_be_ended_inside_is_not_started_again(
    inside: ExecProber, engine: Engine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with an engine on another machine: its processes are out of reach."""
    web = started(engine, run)
    monkeypatch.setattr("orbitcontrol.probes.leftovers.Leftovers._kill_all", lambda _: None)
    check = ExecCheck(command="sleep 600", in_container=True, connect_timeout=Duration(3))
    await inside.probe(check, web)
    again = await inside.probe(check, web)
    assert again.detail == "the command of the check before still runs in the container"
    assert len(engine.docker("top", web.id.container_id).splitlines()) == 3
    monkeypatch.undo()


async def test_commands_that_hang_inside_delay_no_other(inside: ExecProber, engine: Engine, run: Run) -> None:
    web = started(engine, run)

    async def hang(number: int) -> ProbeResult:
        check = ExecCheck(command=f"sleep 60{number}", in_container=True, connect_timeout=Duration(6))
        return await inside.probe(check, web)

    tasks = [asyncio.create_task(hang(number)) for number in range(5)]
    asked = 0
    begun = time.monotonic()
    while not all(task.done() for task in tasks):
        result = await inside.probe(ExecCheck(command=["true"], in_container=True, **PATIENT), web)
        assert result.passed
        asked += 1
    assert asked > 3, f"{asked} in {time.monotonic() - begun:g} s"
    assert not any(task.result().passed for task in tasks)
    await _only_its_own(engine, web)


async def test_looking_at_health_costs_no_process(docker: DockerProber, engine: Engine, run: Run) -> None:
    web = started(engine, run, "--health-interval=60s", "--health-cmd", "true")
    for _ in range(20):
        await docker.probe(DockerCheck(**PATIENT), web)
    assert json.loads(engine.inspect(web.id.container_id, "{{json .ExecIDs}}")) in (None, [])
