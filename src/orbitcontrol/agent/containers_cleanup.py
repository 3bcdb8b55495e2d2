"""Removes old images of authoritative names, when asked: at the slow tick and after replacements.

One clean-up runs at a time, beside everything else. What is needed is looked up again before each
removal, since the configuration may change meanwhile. A removal that fails is reported, logged once
for each new reason, and tried again by the next clean-up, not before.
"""

from __future__ import annotations

import asyncio

from orbitcontrol.agent.board import Problems
from orbitcontrol.errors import DockerUnreachable, OrbitError
from orbitcontrol.log import Log
from orbitcontrol.planning.images import ImageNeeds, removable
from orbitcontrol.ports import ContainerRuntime

_log = Log(__name__)

_OWNER = "images"


class ImageCleanup:
    """Keeps the disk of one engine from filling with revisions of the past."""

    def __init__(self, runtime: ContainerRuntime, problems: Problems) -> None:
        self._runtime = runtime
        self._problems = problems
        self._asked = False
        self._needs: ImageNeeds | None = None
        self._failures: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Asks for a clean-up at the next look."""
        self._asked = True

    def look(self, needs: ImageNeeds | None, group: asyncio.TaskGroup) -> None:
        """Tells what images are needed for now (None: that is not known), and begins what was asked for."""
        self._needs = needs
        if not self._asked or needs is None or (self._task is not None and not self._task.done()):
            return
        self._asked = False
        self._task = group.create_task(self._clean_up(needs.names), name="image clean-up")

    async def _clean_up(self, names: frozenset[str]) -> None:
        failures: dict[str, str] = {}
        try:
            await self._remove_all(names, failures)
        except DockerUnreachable as error:
            _log.debug("image clean-up given up", reason=error)  # the loop reports Docker's silence
            return
        except OrbitError as error:
            failures["images"] = str(error)
        except Exception as error:  # noqa: BLE001 -- a fault in the clean-up must not end the daemon
            _log.error("image clean-up failed unexpectedly", exc_info=True)
            failures["images"] = f"unexpected {type(error).__name__}: {error}"
        for subject, reason in failures.items() - self._failures.items():
            _log.warning("image clean-up failed", subject=subject, reason=reason)
        self._failures = failures
        self._problems.report(_OWNER, failures)

    async def _remove_all(self, names: frozenset[str], failures: dict[str, str]) -> None:
        images = await self._runtime.images(names) if names else ()
        tried: set[str] = set()
        while self._needs is not None:
            left = [one for one in removable(images, self._needs) if one not in tried]
            if not left:
                return
            reference = left[-1]
            tried.add(reference)
            try:
                await self._runtime.remove_image(reference)
            except DockerUnreachable:
                raise
            except OrbitError as error:
                failures[f"image {reference}"] = str(error)
            else:
                _log.info("image removed", image=reference, reason="newer ones of its name are there")
