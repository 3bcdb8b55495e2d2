"""The docker check: passes while the image's own HEALTHCHECK says healthy.

Docker carries it out; this asks what came of it. While Docker says "starting" nothing is decided, and
neither while Docker is silent: a service does not fail because its engine restarts.
"""

from __future__ import annotations

import asyncio

from orbitcontrol.errors import DockerError, DockerUnreachable
from orbitcontrol.model.containers import ContainerHealth
from orbitcontrol.model.runs import ProbeResult, Run
from orbitcontrol.model.service import Check, DockerCheck
from orbitcontrol.ports import ContainerChecks
from orbitcontrol.probes.reasons import printable


class DockerProber:
    """Asks the Docker engine for a container's health."""

    def __init__(self, containers: ContainerChecks) -> None:
        self._containers = containers

    async def probe(self, check: Check, run: Run) -> ProbeResult:
        """Asks once."""
        assert isinstance(check, DockerCheck)  # noqa: S101 -- the table of probers says so
        if not run.id.container_id:
            return ProbeResult(passed=False, detail="the service has no container whose health Docker knows")
        within = check.connect_timeout + check.response_timeout
        try:
            async with asyncio.timeout(within):
                health = await self._containers.health(run.id.container_id)
        except TimeoutError:
            return ProbeResult(
                passed=False, detail=f"Docker did not answer within {within:g} s", counts=False
            )
        except DockerError as error:
            known = not isinstance(error, DockerUnreachable)
            return ProbeResult(passed=False, detail=str(error), counts=known)
        if health.started_at != run.id.started_at:
            return ProbeResult(passed=False, detail="the container was started anew", counts=False)
        return _judged(health)

    async def close(self) -> None:
        """The connection to Docker is closed by who made it."""


def _judged(health: ContainerHealth) -> ProbeResult:
    said = printable(health.output)
    match health.status:
        case "healthy":
            return ProbeResult(passed=True, detail="Docker says healthy")
        case "none":
            return ProbeResult(
                passed=False,
                detail="the container has no HEALTHCHECK: give the image one, or use another check",
            )
        case "starting":
            why = "Docker says starting: its first health check has not passed yet"
            return ProbeResult(passed=False, detail=f"{why}: {said}" if said else why, counts=False)
        case _:
            return ProbeResult(passed=False, detail=f"Docker says {health.status}: {said}".rstrip(": "))
