"""Pulls: that they hold nobody up, and when one that failed is tried again."""

from __future__ import annotations

import asyncio
from typing import cast

from orbitcontrol.agent.board import Wake
from orbitcontrol.agent.containers_images import Images
from orbitcontrol.errors import DockerError
from orbitcontrol.ports import ContainerRuntime
from support.loops import PATIENCE


class Engine:
    """Has one image, and can get no other: a pull ends when it is told to, and fails."""

    def __init__(self) -> None:
        self.ends = asyncio.Event()

    async def has_image(self, image: str) -> bool:
        return image == "here:1"

    async def pull(self, image: str) -> None:
        await self.ends.wait()
        raise DockerError(f"there is no {image}")


async def test_an_image_that_is_being_pulled_holds_up_no_other() -> None:
    engine, wake = Engine(), Wake()
    images = Images(cast("ContainerRuntime", engine), wake=wake)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        assert not await images.ready("far:1", group)
        assert await images.ready("here:1", group)
        assert not await images.ready("far:1", group), "it is pulled once"
        engine.ends.set()
    assert images.failure("far:1") == "there is no far:1"
    assert await wake.wait(PATIENCE) == {"pull ended"}


async def test_machines_whose_pulls_failed_together_do_not_try_again_together() -> None:
    engine = Engine()
    engine.ends.set()
    machines = [Images(cast("ContainerRuntime", engine), wake=Wake()) for _ in range(20)]
    begun = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as group:
        for images in machines:
            assert not await images.ready("web:1", group)
    attempts = [attempt for images in machines if (attempt := images.next_attempt()) is not None]
    assert len(attempts) == 20
    assert min(attempts) - begun >= 0.8
    assert max(attempts) - min(attempts) > 0.1
