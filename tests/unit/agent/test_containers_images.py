"""Pulls that fail: when each is tried again."""

from __future__ import annotations

import asyncio
from typing import cast

from orbitcontrol.agent.board import Wake
from orbitcontrol.agent.containers_images import Images
from orbitcontrol.errors import DockerError
from orbitcontrol.ports import ContainerRuntime


class Engine:
    """Has no image, and can get none."""

    async def has_image(self, image: str) -> bool:
        return False

    async def pull(self, image: str) -> None:
        raise DockerError(f"there is no {image}")


async def test_machines_whose_pulls_failed_together_do_not_try_again_together() -> None:
    engine = cast("ContainerRuntime", Engine())
    machines = [Images(engine, wake=Wake()) for _ in range(20)]
    begun = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as group:
        for images in machines:
            assert not await images.ready("web:1", group)
    attempts = [attempt for images in machines if (attempt := images.next_attempt()) is not None]
    assert len(attempts) == 20
    assert min(attempts) - begun >= 0.8
    assert max(attempts) - min(attempts) > 0.1
