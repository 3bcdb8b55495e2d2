from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orbitcontrol.docker.runtime import DockerRuntime
from orbitcontrol.errors import DockerError, DockerUnreachable, PortTaken, UsageError
from orbitcontrol.model.containers import ContainerEvent, ContainerSpec, ObservedContainer
from support.containers import PATIENCE
from support.docker import Engine, way_to

pytestmark = pytest.mark.integration


def spec(image: str, *command: str, **host_config: Any) -> ContainerSpec:
    body = {"Image": image, "Cmd": list(command), "Labels": {"a": "b"}, "HostConfig": host_config}
    body["ExposedPorts"] = {key: {} for key in host_config.get("PortBindings", {})}
    return ContainerSpec(name="subject", image=image, body=body)


async def only(runtime: DockerRuntime) -> ObservedContainer:
    [container] = [one for one in await runtime.containers() if one.name == "subject"]
    return container


async def test_a_container_is_seen_from_creation_to_its_end(
    runtime: DockerRuntime, engine: Engine, image: str
) -> None:
    bindings = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "23398"}]}
    created = await runtime.create(spec(image, "sleep", "600", PortBindings=bindings))
    assert await only(runtime) == ObservedContainer(
        id=created,
        name="subject",
        image=image,
        image_id=engine.inspect("subject", "{{.Image}}"),
        state="created",
        labels={"a": "b"},
    )
    await runtime.start(created)
    running = await only(runtime)
    assert (running.state, running.ports) == ("running", {80: 23398})
    assert running.started_at == engine.inspect("subject", "{{.State.StartedAt}}")
    engine.docker("kill", "subject")
    ended = await only(runtime)
    assert (ended.state, ended.exit_code) == ("exited", 137)
    await runtime.remove(created)
    assert "subject" not in {one.name for one in await runtime.containers()}


async def test_a_container_that_was_started_again_has_another_start_time(
    runtime: DockerRuntime, engine: Engine, image: str
) -> None:
    created = await runtime.create(spec(image, "sleep", "600"))
    async with runtime.events() as events:
        await runtime.start(created)
        await _next(events, "start")
        before = await only(runtime)
        engine.docker("restart", "--time", "0", "subject")
        await _next(events, "start")
        after = await only(runtime)
    assert after.id == before.id
    assert after.started_at != before.started_at


async def test_events_tell_what_happened_since_the_subscription_began(
    runtime: DockerRuntime, image: str
) -> None:
    async with runtime.events() as events:
        created = await runtime.create(spec(image, "false"))
        await runtime.start(created)
        assert await _next(events, "create") == ContainerEvent("create", created, "subject")
        assert await _next(events, "die") == ContainerEvent("die", created, "subject")


async def test_a_container_that_has_died_is_never_listed_as_running(
    runtime: DockerRuntime, engine: Engine, image: str
) -> None:
    created = await runtime.create(spec(image, "sleep", "600"))
    async with runtime.events() as events:
        await runtime.start(created)
        await _next(events, "start")
        assert (await only(runtime)).state == "running"
        killing = asyncio.create_task(asyncio.to_thread(engine.docker, "kill", "subject"))
        await _next(events, "die")
        assert (await only(runtime)).state == "exited"
        await killing


async def test_stopping_waits_for_the_grace_period_and_then_kills(
    runtime: DockerRuntime, engine: Engine, image: str
) -> None:
    created = await runtime.create(spec(image, "sleep", "600"))  # process 1 ignores SIGTERM
    await runtime.start(created)
    began = time.monotonic()
    await runtime.stop(created, grace=1)
    assert 1 <= time.monotonic() - began < 9, "Docker's own grace period would be ten seconds"
    assert (await only(runtime)).exit_code == 137
    await runtime.stop(created, grace=1)


async def test_what_is_gone_already_can_be_stopped_and_removed(runtime: DockerRuntime) -> None:
    await runtime.stop("0" * 64, grace=1)
    await runtime.remove("0" * 64)


async def test_a_port_in_use_is_an_error_of_its_own(runtime: DockerRuntime, image: str) -> None:
    bindings = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "23398"}]}
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 23398)
    async with server:
        created = await runtime.create(spec(image, "sleep", "600", PortBindings=bindings))
        with pytest.raises(PortTaken, match="23398"):
            await runtime.start(created)


async def test_what_docker_refuses_is_told_in_its_own_words(runtime: DockerRuntime, image: str) -> None:
    created = await runtime.create(spec(image, "true", NetworkMode="no-such-network"))
    with pytest.raises(DockerError, match=r"could not start the container .*no-such-network"):
        await runtime.start(created)


async def test_an_absent_engine_is_named_with_what_to_do() -> None:
    runtime = DockerRuntime("unix:///nonexistent/docker.sock")
    with pytest.raises(DockerUnreachable, match=r"/nonexistent/docker.sock.*--docker-host"):
        await runtime.containers()
    with pytest.raises(DockerUnreachable, match="no Docker engine answers"):
        async with runtime.events():
            pass
    await runtime.close()


def test_an_address_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="unix:///path or tcp://host:port"):
        DockerRuntime("docker.example")


async def test_a_broken_event_stream_is_an_error_and_the_next_subscription_works(
    engine: Engine, image: str, tmp_path: Path
) -> None:
    async with way_to(engine, tmp_path / "docker.sock") as way:
        runtime = DockerRuntime(f"unix://{tmp_path / 'docker.sock'}")
        async with runtime.events() as events:
            await runtime.remove(await runtime.create(spec(image, "false")))
            await _next(events, "destroy")
            way.cut()
            with pytest.raises(DockerUnreachable, match="event stream"):
                await _next(events, "never")
        async with runtime.events() as events:
            created = await runtime.create(spec(image, "false"))
            assert await _next(events, "create") == ContainerEvent("create", created, "subject")
        await runtime.close()


async def test_an_engine_that_falls_silent_is_unreachable(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbitcontrol.docker.runtime.CALL_TIMEOUT", 0.3)
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_unix_server(
        lambda _, writer: writers.append(writer), tmp_path / "silent.sock"
    )
    async with silent:
        runtime = DockerRuntime(f"unix://{tmp_path / 'silent.sock'}")
        with pytest.raises(DockerUnreachable, match=r"did not list the containers within 0.3 s"):
            await runtime.containers()
        await runtime.close()
        for writer in writers:
            writer.close()


async def test_the_end_of_a_log_is_read_and_not_all_of_it(
    runtime: DockerRuntime, engine: Engine, image: str
) -> None:
    script = "i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo line $i; done; sleep 1; echo the end >&2"
    engine.docker("run", "--name", "subject", image, "sh", "-c", script)
    container = engine.inspect("subject", "{{.Id}}")
    assert (await runtime.log_tail(container, lines=2, size=100)).splitlines() == ["line 50", "the end"]
    assert await runtime.log_tail(container, lines=20, size=7) == "he end\n"


async def test_the_log_of_a_container_that_still_runs_is_read_as_far_as_it_is(
    runtime: DockerRuntime, engine: Engine, image: str
) -> None:
    script = "echo one; echo two; echo ready > /www/ready; exec sleep 600"
    engine.docker("run", "--detach", "--name", "subject", image, "sh", "-c", script)
    engine.docker("exec", "subject", "sh", "-c", "until [ -e /www/ready ]; do :; done")
    container = engine.inspect("subject", "{{.Id}}")
    assert (await runtime.log_tail(container, lines=5, size=100)).splitlines() == ["one", "two"]


async def test_the_log_of_a_terminal_is_read_too(runtime: DockerRuntime, engine: Engine, image: str) -> None:
    engine.docker("run", "--tty", "--name", "subject", image, "sh", "-c", "echo one; echo two")
    container = engine.inspect("subject", "{{.Id}}")
    assert (await runtime.log_tail(container, lines=1, size=100)).split() == ["two"]


async def test_a_log_that_cannot_be_read_is_an_error(
    runtime: DockerRuntime, engine: Engine, image: str
) -> None:
    engine.docker("run", "--log-driver", "none", "--name", "subject", image, "true")
    with pytest.raises(DockerError, match="could not read the log"):
        await runtime.log_tail(engine.inspect("subject", "{{.Id}}"), lines=1, size=100)


async def test_images_are_seen_by_name_with_their_times_and_removed_unless_in_use(
    runtime: DockerRuntime, engine: Engine, image: str
) -> None:
    before = time.time()
    new = engine.image("orbit-test/seen:1")
    [seen] = await runtime.images({"docker.io/orbit-test/seen"})
    assert (seen.id, seen.tags) == (engine.docker("images", "--no-trunc", "--quiet", new), (new,))
    assert before - 1 < seen.created <= seen.tagged <= time.time()
    engine.docker("create", "--name", "subject", new, "true")
    with pytest.raises(DockerError, match=f"could not remove the image {new}"):
        await runtime.remove_image(new)
    engine.docker("rm", "subject")
    await runtime.remove_image(new)
    await runtime.remove_image(new)
    assert not await runtime.images({"docker.io/orbit-test/seen"})
    assert await runtime.has_image(image)


async def _next(events: AsyncIterator[ContainerEvent], action: str) -> ContainerEvent:
    """The next event of that kind."""
    async with asyncio.timeout(PATIENCE):
        async for event in events:
            if event.action == action:
                return event
    raise AssertionError("the events ended without an error")
