from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, cast

import pytest

from orbitcontrol.agent.board import Problems
from orbitcontrol.agent.containers_cleanup import ImageCleanup
from orbitcontrol.errors import DockerError, DockerUnreachable
from orbitcontrol.model.containers import ObservedImage
from orbitcontrol.planning.images import ImageNeeds

NEEDS = ImageNeeds(authoritative=frozenset({"web"}))


class Engine:
    """Images ``web:0`` to ``web:4``; some cannot be removed, and it may be silent."""

    def __init__(self, *, stuck: Collection[str] = (), silent: bool = False) -> None:
        self.tags = [f"web:{number}" for number in range(5)]
        self.stuck = set(stuck)
        self.silent = silent
        self.asked = 0
        self.answer = asyncio.Event()
        self.answer.set()

    async def images(self, names: Collection[str]) -> tuple[ObservedImage, ...]:
        assert names == {"docker.io/library/web"}
        self.asked += 1
        if self.silent:
            raise DockerUnreachable("silent")
        return tuple(ObservedImage(id=tag, tags=(tag,), created=float(tag[-1])) for tag in self.tags)

    async def remove_image(self, reference: str) -> None:
        await self.answer.wait()
        if reference in self.stuck:
            raise DockerError(f"{reference} is in use")
        self.tags.remove(reference)


class Keeper:
    """A clean-up at work, looked at as often as a test says."""

    def __init__(self, engine: Engine) -> None:
        self.problems = Problems()
        self.cleanup = ImageCleanup(cast("Any", engine), self.problems)

    async def look(self, needs: ImageNeeds | None = NEEDS) -> None:
        """One look, and the end of what it begins."""
        async with asyncio.TaskGroup() as group:
            self.cleanup.look(needs, group)

    def reported(self) -> dict[str, str]:
        return {one.subject: one.reason for one in self.problems.cell.value}


async def test_it_cleans_up_when_asked_and_only_then() -> None:
    engine = Engine()
    keeper = Keeper(engine)
    await keeper.look()
    assert engine.asked == 0
    keeper.cleanup.ask()
    await keeper.look()
    assert engine.tags == ["web:3", "web:4"]
    await keeper.look()
    assert engine.asked == 1


async def test_what_is_asked_while_nothing_is_known_waits_until_it_is() -> None:
    engine = Engine()
    keeper = Keeper(engine)
    keeper.cleanup.ask()
    await keeper.look(None)
    assert engine.asked == 0
    await keeper.look()
    assert engine.tags == ["web:3", "web:4"]


async def test_a_failure_is_told_once_hinders_no_other_and_is_not_tried_again_before_the_next_clean_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = Engine(stuck={"web:1"})
    keeper = Keeper(engine)
    keeper.cleanup.ask()
    await keeper.look()
    await keeper.look()
    assert engine.tags == ["web:1", "web:3", "web:4"]
    assert engine.asked == 1
    keeper.cleanup.ask()
    await keeper.look()
    assert keeper.reported() == {"image web:1": "web:1 is in use"}
    assert [record.getMessage() for record in caplog.records].count("image clean-up failed") == 1
    engine.stuck.clear()
    keeper.cleanup.ask()
    await keeper.look()
    assert keeper.reported() == {}
    assert engine.tags == ["web:3", "web:4"]


async def test_what_becomes_wanted_during_a_clean_up_stays() -> None:
    engine = Engine()
    keeper = Keeper(engine)
    engine.answer.clear()
    async with asyncio.TaskGroup() as group:
        keeper.cleanup.ask()
        keeper.cleanup.look(NEEDS, group)
        await asyncio.sleep(0)
        wanted = ImageNeeds(authoritative=NEEDS.authoritative, wanted=frozenset({"web:2"}))
        keeper.cleanup.look(wanted, group)
        engine.answer.set()
    assert engine.tags == ["web:2", "web:3", "web:4"]


async def test_it_stops_when_nothing_is_known_any_more() -> None:
    engine = Engine()
    keeper = Keeper(engine)
    engine.answer.clear()
    async with asyncio.TaskGroup() as group:
        keeper.cleanup.ask()
        keeper.cleanup.look(NEEDS, group)
        await asyncio.sleep(0)
        keeper.cleanup.look(None, group)
        engine.answer.set()
    assert len(engine.tags) == 4, "what was under way is finished"


async def test_a_silent_engine_is_no_trouble_of_the_images() -> None:
    engine = Engine(silent=True)
    keeper = Keeper(engine)
    keeper.cleanup.ask()
    await keeper.look()
    assert keeper.reported() == {}
