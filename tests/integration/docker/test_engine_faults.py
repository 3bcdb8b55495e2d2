"""An engine that hangs, and one that is restarted."""

from __future__ import annotations

import asyncio

import pytest

from orbitcontrol.docker import runtime
from orbitcontrol.model.configuration import EffectiveService
from support.containers import ADDRESS, Machine, page, process
from support.docker import OwnEngine

pytestmark = pytest.mark.integration

PORT = 23397


def on_host_network(image: str) -> EffectiveService:
    """A service that is reached without Docker's proxy, which ends with the engine."""
    command = ["httpd", "-f", "-p", f"{ADDRESS}:{PORT}", "-h", "/www"]
    return process("net", image, command, endpoint_port=PORT, host_config={"NetworkMode": "host"})


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "CALL_TIMEOUT", 1.0)
    monkeypatch.setattr(runtime, "EVENT_SILENCE", 1.0)


async def started_at(engine: OwnEngine, name: str) -> str:
    return await asyncio.to_thread(engine.inspect, name, "{{.Id}} {{.State.StartedAt}}")


async def test_while_the_engine_hangs_services_stay_published_and_docker_is_named(
    machine: Machine, own_engine: OwnEngine, image: str
) -> None:
    machine.want(on_host_network(image))
    [run] = await machine.runs(1)
    before = await started_at(own_engine, "net")
    published = machine.record(machine.board.published)
    with own_engine.frozen():
        assert own_engine.host in await machine.problem("docker")
        assert machine.board.runs.value == (run,)
        assert await page(run) == "orbit-test/web:1"
        machine.judge = lambda _: False
        machine.recheck()
        await machine.until(machine.board.published, lambda found: not found, "failed checks still count")
        machine.judge = lambda _: True
        machine.recheck()
        await machine.until(machine.board.published, bool, "and passed ones")
    await machine.until(machine.board.problems.cell, lambda problems: not problems, "no problem any more")
    assert published == [frozenset({run.id}), frozenset(), frozenset({run.id})]
    assert await started_at(own_engine, "net") == before
    await asyncio.to_thread(own_engine.docker, "kill", "net")
    await machine.until(machine.board.published, lambda found: run.id not in found, "events are heard again")
    await machine.runs(1)


async def test_with_live_restore_containers_keep_their_endpoints_over_a_restart_of_the_engine(
    machine: Machine, own_engine: OwnEngine, image: str
) -> None:
    machine.want(on_host_network(image))
    [run] = await machine.runs(1)
    before = await started_at(own_engine, "net")
    published = machine.record(machine.board.published)
    with own_engine.live_restore():
        await asyncio.to_thread(own_engine.end)
        await machine.problem("docker")
        assert await page(run) == "orbit-test/web:1"
        await asyncio.to_thread(own_engine.start)
        await machine.until(machine.board.problems.cell, lambda problems: not problems, "docker is back")
        await machine.settle()
        assert machine.board.runs.value == (run,)
        assert set(published) == {frozenset({run.id})}
        assert await started_at(own_engine, "net") == before
        await asyncio.to_thread(own_engine.docker, "kill", "net")
        await machine.until(machine.board.published, lambda found: run.id not in found, "events are heard")
        await machine.runs(1)


async def test_without_live_restore_containers_are_replaced_after_a_restart_of_the_engine(
    machine: Machine, own_engine: OwnEngine, image: str
) -> None:
    machine.want(on_host_network(image))
    [before] = await machine.runs(1)
    await asyncio.to_thread(own_engine.end)
    await machine.until(machine.board.published, lambda found: before.id not in found, "withdrawn")
    await asyncio.to_thread(own_engine.start)
    [after] = await machine.runs(1)
    assert after.id.container_id != before.id.container_id
    assert await page(after) == "orbit-test/web:1"
