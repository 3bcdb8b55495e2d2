"""Old images of authoritative names are removed, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from support.containers import Machine, eventually, process
from support.docker import Engine

pytestmark = pytest.mark.integration

NAME = "orbit-test/piling"
OTHER = "orbit-test/unlisted"


@pytest.fixture
def images(engine: Engine) -> Iterator[None]:
    """Several tags of each name, built one after the other."""
    for tag in "12345":
        engine.image(f"{NAME}:{tag}")
    for tag in "123":
        engine.image(f"{OTHER}:{tag}")
    yield
    for name in (NAME, OTHER):
        engine.docker("rmi", "--force", *(f"{name}:{left}" for left in tags(engine, name)))


def tags(engine: Engine, name: str) -> set[str]:
    return set(engine.docker("images", "--format", "{{.Tag}}", name).split())


@pytest.mark.usefixtures("images")
async def test_the_two_newest_tags_and_those_that_run_stay(machine: Machine, engine: Engine) -> None:
    engine.docker("create", "--name", "of-somebody", f"{OTHER}:1", "true")
    machine.want(process("task", f"{NAME}:2", ["sleep", "600"]), authoritative=frozenset({NAME}))
    await machine.reported("task", "running")
    await eventually(lambda: tags(engine, NAME) == {"2", "4", "5"}, "old images are removed")
    assert tags(engine, OTHER) == {"1", "2", "3"}


@pytest.mark.usefixtures("images")
async def test_they_are_removed_after_a_replacement(machine: Machine, engine: Engine) -> None:
    machine.want(process("task", f"{NAME}:1", ["sleep", "600"]))
    await machine.reported("task", "running")
    machine.want(process("task", f"{NAME}:1", ["sleep", "600"]), authoritative=frozenset({NAME}))
    await machine.settle()
    assert tags(engine, NAME) == {"1", "2", "3", "4", "5"}, "not for every event"
    machine.want(process("task", f"{NAME}:3", ["sleep", "600"]), authoritative=frozenset({NAME}))
    await eventually(lambda: tags(engine, NAME) == {"3", "4", "5"}, "old images are removed")


@pytest.mark.usefixtures("images")
async def test_an_image_that_is_about_to_be_used_stays(machine: Machine, engine: Engine) -> None:
    engine.docker("run", "--detach", "--name", "task", f"{OTHER}:1", "sleep", "600")  # is in the way
    machine.want(process("task", f"{NAME}:1", ["sleep", "600"]), authoritative=frozenset({NAME}))
    await eventually(lambda: tags(engine, NAME) == {"1", "4", "5"}, "old images are removed")


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("doubt", ["held", "holding"])
async def test_none_is_removed_for_lack_of_knowledge(machine: Machine, engine: Engine, doubt: str) -> None:
    held = frozenset({"task"}) if doubt == "held" else frozenset[str]()
    machine.want(held=held, holding=doubt if doubt == "holding" else "", authoritative=frozenset({NAME}))
    await machine.settle()
    if begun := {task for task in asyncio.all_tasks() if task.get_name() == "image clean-up"}:
        await asyncio.wait(begun)
    assert tags(engine, NAME) == {"1", "2", "3", "4", "5"}
