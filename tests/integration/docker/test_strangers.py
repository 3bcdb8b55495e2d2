"""Containers that somebody else started: adopted, evicted, or left alone."""

from __future__ import annotations

import asyncio

import pytest

from support.containers import ADDRESS, Machine, eventually, page, process, web
from support.docker import Engine

pytestmark = pytest.mark.integration

PORT = 23398
AUTHORITATIVE = frozenset({"orbit-test/web"})
SERVE = ("httpd", "-f", "-p", "80", "-h", "/www")


def by_hand(engine: Engine, name: str, image: str, *options: str, command: tuple[str, ...] = SERVE) -> str:
    """Starts a container as a person does; which one it is and since when it runs."""
    engine.docker("run", "--detach", "--name", name, "--stop-signal", "SIGKILL", *options, image, *command)
    return started_at(engine, name)


def started_at(engine: Engine, container: str) -> str:
    return engine.inspect(container, "{{.Id}} {{.State.StartedAt}}")


def published(port: int = PORT, *, address: str = ADDRESS) -> tuple[str, str]:
    return "--publish", f"{address}:{port}:80"


async def gone(engine: Engine, name: str) -> None:
    await eventually(lambda: name not in engine.names(), f"{name} is gone")


# Eviction


async def test_a_container_of_an_authoritative_image_that_nothing_wants_is_removed_and_no_other(
    machine: Machine, engine: Engine, image: str
) -> None:
    other = engine.image("orbit-test/other:1")
    kept = by_hand(engine, "of-somebody", other)
    engine.docker("create", "--name", "of-somebody-too", other, "true")
    machine.want(web("web", image, endpoint_port=PORT), authoritative=AUTHORITATIVE)
    await machine.runs(1)
    before = started_at(engine, "web")
    by_hand(engine, "running", engine.image("orbit-test/web:7"))
    engine.docker("create", "--name", "created", image, "true")
    await gone(engine, "running")
    await gone(engine, "created")
    await machine.settle()
    assert engine.names() == {"web", "of-somebody", "of-somebody-too"}
    assert (started_at(engine, "web"), started_at(engine, "of-somebody")) == (before, kept)


async def test_it_is_known_by_its_image_also_when_the_tag_has_moved_on(
    machine: Machine, engine: Engine
) -> None:
    moving = engine.image("orbit-test/moving:1")
    by_hand(engine, "running", moving)
    engine.docker("create", "--name", "created", moving, "true")
    engine.docker("tag", engine.image("orbit-test/other:1"), moving)
    machine.want(authoritative=frozenset({"orbit-test/moving"}))
    await gone(engine, "running")
    await gone(engine, "created")


@pytest.mark.parametrize("doubt", ["held", "holding", "unknown", "what is published is not known"])
async def test_nothing_is_evicted_for_lack_of_knowledge(
    machine: Machine, engine: Engine, image: str, doubt: str
) -> None:
    before = by_hand(engine, "stranger", image)
    if doubt == "held":
        machine.want(held=frozenset({"other"}), authoritative=AUTHORITATIVE)
    elif doubt == "holding":
        machine.want(holding="the store was filled anew", authoritative=AUTHORITATIVE)
    elif doubt != "unknown":
        await machine.stop()
        machine.want(authoritative=AUTHORITATIVE)
        await machine.start(knows_published=False)
    await machine.settle()
    await machine.settle()
    assert started_at(engine, "stranger") == before


async def test_a_container_with_a_wanted_name_and_another_tag_makes_room(
    machine: Machine, engine: Engine, image: str, image2: str
) -> None:
    by_hand(engine, "web", image2, *published())
    machine.want(web("web", image, endpoint_port=PORT), authoritative=AUTHORITATIVE)
    [run] = await machine.runs(1)
    assert await page(run) == "orbit-test/web:1"
    assert engine.names() == {"web"}


async def test_what_answers_for_a_service_that_somebody_else_runs_is_wanted(
    machine: Machine, engine: Engine, image: str
) -> None:
    before = by_hand(engine, "database", image, *published())
    without_container = web("db", image, endpoint_port=PORT)
    service = type(without_container.service)(name="db", endpoint_port=PORT)
    machine.want(type(without_container)(service=service), authoritative=AUTHORITATIVE)
    await machine.runs(1)
    await machine.settle()
    assert started_at(engine, "database") == before


async def test_the_containers_of_another_machine_on_the_same_engine_are_not_evicted(
    machine: Machine, engine: Engine, image: str
) -> None:
    labels = ("--label", "orbitcontrol.machine=10.9.9.9", "--label", "orbitcontrol.service=web")
    before = by_hand(engine, "theirs", image, *labels)
    machine.want(authoritative=AUTHORITATIVE)
    await machine.settle()
    await machine.settle()
    assert started_at(engine, "theirs") == before


# Adoption


async def test_a_container_started_by_hand_that_is_what_is_wanted_is_adopted_and_not_restarted(
    machine: Machine, engine: Engine, image: str
) -> None:
    before = by_hand(engine, "web", image, *published(), "--env", "MORE=1")
    machine.want(web("web", image, endpoint_port=PORT), authoritative=AUTHORITATIVE)
    [run] = await machine.runs(1)
    assert (run.host, run.port, run.revision) == (ADDRESS, PORT, "1")
    await machine.reported("web", "running")
    await machine.settle()
    assert started_at(engine, "web") == before


async def test_an_adopted_container_keeps_the_port_that_it_was_published_on(
    machine: Machine, engine: Engine, image: str
) -> None:
    by_hand(engine, "web-2", image, *published(address="0.0.0.0"))
    machine.want(web("web", image, instances=2))
    _, second = await machine.runs(2)
    assert second.port == PORT
    assert await page(second) == "orbit-test/web:1"


async def test_on_the_hosts_network_it_answers_where_the_service_says(
    machine: Machine, engine: Engine, image: str
) -> None:
    command = ("httpd", "-f", "-p", f"{ADDRESS}:{PORT}", "-h", "/www")
    before = by_hand(engine, "net", image, "--network", "host", command=command)
    service = process("net", image, list(command), endpoint_port=PORT, host_config={"NetworkMode": "host"})
    machine.want(service)
    [run] = await machine.runs(1)
    assert run.port == PORT
    assert started_at(engine, "net") == before


async def test_an_adopted_container_is_replaced_once_withdrawn_when_the_revision_changes(
    machine: Machine, engine: Engine, image: str, image2: str
) -> None:
    by_hand(engine, "web", image, *published())
    machine.want(web("web", image, endpoint_port=PORT))
    [before] = await machine.runs(1)
    directed = machine.record(machine.board.rollouts.directives)
    machine.want(web("web", image2, endpoint_port=PORT))
    await machine.until(
        machine.board.runs, lambda runs: [run.revision for run in runs or ()] == ["2"], "replaced"
    )
    assert any(one is not None and one.runs.get(before.id) == "drain" for one in directed)
    [after] = await machine.runs(1)
    assert await page(after) == "orbit-test/web:2"


async def test_that_it_was_adopted_is_remembered_by_the_next_daemon(
    machine: Machine, engine: Engine, image: str, image2: str
) -> None:
    before = by_hand(engine, "web", image, *published())
    machine.want(web("web", image, endpoint_port=PORT))
    runs = await machine.runs(1)
    await machine.stop()
    await machine.start()
    assert await machine.runs(1) == runs
    assert started_at(engine, "web") == before
    await machine.stop()
    machine.want(web("web", image2, endpoint_port=PORT))
    await machine.start()
    await machine.until(
        machine.board.runs, lambda runs: [run.revision for run in runs or ()] == ["2"], "replaced"
    )


async def test_an_adopted_container_goes_when_its_service_does(
    machine: Machine, engine: Engine, image: str
) -> None:
    by_hand(engine, "web", image, *published())
    machine.want(web("web", image, endpoint_port=PORT))
    await machine.runs(1)
    machine.want()
    await gone(engine, "web")


async def test_an_adopted_container_that_dies_is_replaced_like_any_other(
    machine: Machine, engine: Engine, image: str
) -> None:
    by_hand(engine, "web", image, *published())
    machine.want(web("web", image, endpoint_port=PORT))
    [before] = await machine.runs(1)
    await asyncio.to_thread(engine.docker, "kill", "web")
    await machine.until(machine.board.published, lambda runs: before.id not in runs, "withdrawn")
    [after] = await machine.runs(1)
    assert after.id.container_id != before.id.container_id
    assert engine.inspect("web", '{{index .Config.Labels "orbitcontrol.service"}}') == "web"


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("--env", "COLOR=red", *published()), "Config.Env"),
        (("--env", "COLOR=blue"), "the published port 80/tcp"),
        (("--env", "COLOR=blue", *published(PORT + 1)), "the published port 80/tcp"),
        (("--env", "COLOR=blue", *published(address="127.0.0.2")), "the published port 80/tcp"),
        (("--env", "COLOR=blue", "--memory", "64m", *published()), "HostConfig.Memory"),
    ],
)
async def test_one_that_contradicts_the_service_is_left_alone_and_the_difference_is_named(
    machine: Machine, engine: Engine, image: str, options: tuple[str, ...], difference: str
) -> None:
    before = by_hand(engine, "web", image, *options)
    wanted = web(
        "web", image, endpoint_port=PORT, host_config={"Memory": 32 << 20} if "64m" in options else {}
    )
    assert wanted.service.container is not None
    wanted.service.container.config["Env"] = ["COLOR=blue"]
    machine.want(wanted)
    assert f"differs in {difference}" in await machine.reported("web", "blocked")
    await machine.settle()
    assert started_at(engine, "web") == before
