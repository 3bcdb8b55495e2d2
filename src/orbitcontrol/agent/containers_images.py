"""Images that containers wait for: each pulled once, however many wait, and again after a failure."""

from __future__ import annotations

import asyncio
import random
import re

from orbitcontrol.agent.board import Wake
from orbitcontrol.errors import DockerError, DockerUnreachable, OrbitError
from orbitcontrol.log import Log
from orbitcontrol.planning.backoff import Backoff, failed
from orbitcontrol.ports import ContainerRuntime

_log = Log(__name__)

_ATTEMPTS = 3
_HOPELESS = re.compile(r"manifest unknown|not found|repository does not exist|invalid reference format")
"""What registries and engines say of an image that there is not."""


class Images:
    """Knows which images are there and which are being pulled; rings ``wake`` when that changes."""

    def __init__(self, runtime: ContainerRuntime, *, wake: Wake) -> None:
        self._runtime = runtime
        self._wake = wake
        self._pulls: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, Backoff] = {}
        self._needs: dict[str, set[str]] = {}

    async def ready(self, image: str, group: asyncio.TaskGroup) -> bool:
        """True when the engine has the image; otherwise sees to it that it is being pulled."""
        if image in self._pulls:
            return False
        if await self._has(image):
            self._failures.pop(image, None)
            return True
        backoff = self._failures.get(image)
        if backoff is None or backoff.ready_at <= asyncio.get_running_loop().time():
            self._pulls[image] = group.create_task(self._pull(image), name=f"pull {image}")
        return False

    def failure(self, image: str) -> str:
        """Why the last pull of the image failed; "" when none did."""
        backoff = self._failures.get(image)
        return "" if backoff is None else backoff.reason

    def given_up(self, image: str) -> str:
        """Why nothing is to be expected of further attempts; "" while something is."""
        backoff = self._failures.get(image)
        if backoff is None or (backoff.attempts <= _ATTEMPTS and not _HOPELESS.search(backoff.reason)):
            return ""
        return backoff.reason

    def keep(self, owner: str, images: set[str]) -> None:
        """Says which images ``owner`` waits for; failures of those that nobody waits for are forgotten."""
        self._needs[owner] = images
        needed = set[str]().union(*self._needs.values())
        self._failures = {image: backoff for image, backoff in self._failures.items() if image in needed}

    def next_attempt(self) -> float | None:
        """When the first failed pull may be tried again, on the event loop's clock."""
        return min((backoff.ready_at for backoff in self._failures.values()), default=None)

    async def _has(self, image: str) -> bool:
        try:
            return await self._runtime.has_image(image)
        except DockerUnreachable:
            raise
        except DockerError:
            return False  # a reference that Docker does not understand: the pull will say so

    async def _pull(self, image: str) -> None:
        _log.info("pulling image", image=image, reason="a container needs it")
        try:
            await self._runtime.pull(image)
        except OrbitError as error:
            self._failed(image, str(error))
        except Exception as error:  # noqa: BLE001 -- a fault in one pull must not end the others
            _log.error("pull failed unexpectedly", exc_info=True, image=image)
            self._failed(image, f"unexpected {type(error).__name__}: {error}")
        else:
            self._failures.pop(image, None)
            _log.info("image pulled", image=image)
        finally:
            del self._pulls[image]
            self._wake.ring("pull ended")

    def _failed(self, image: str, reason: str) -> None:
        before = self._failures.get(image, Backoff())
        now = asyncio.get_running_loop().time()
        after = failed(before, reason=reason, now=now, stretch=random.uniform(0.8, 1.2))
        self._failures[image] = after
        _log.warning("pull failed", image=image, reason=reason, again_in=f"{after.ready_at - now:.1f} s")
