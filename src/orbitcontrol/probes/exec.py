"""The exec check: passes when a command ends with 0, on the machine or inside the run's container.

It has ``ConnectTimeout`` and ``ResponseTimeout`` together. The reason has the beginning and the end of
what it printed; never the command itself, which may carry a password.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Hashable

from orbitcontrol.errors import DockerError, DockerUnreachable
from orbitcontrol.model.runs import ProbeResult, Run
from orbitcontrol.model.service import Check, ExecCheck
from orbitcontrol.ports import ContainerChecks
from orbitcontrol.probes.commands import Commands
from orbitcontrol.probes.leftovers import Leftovers
from orbitcontrol.probes.output import MOST, Output, TooMuchOutput
from orbitcontrol.probes.reasons import failed_by_system


class ExecProber:
    """Runs commands, each ended with all that it started before its time is over."""

    def __init__(self, containers: ContainerChecks) -> None:
        self._containers = containers
        self._commands = Commands()
        self._leftovers = Leftovers()

    async def probe(self, check: Check, run: Run) -> ProbeResult:
        """Runs the command once."""
        assert isinstance(check, ExecCheck)  # noqa: S101 -- the table of probers says so
        if check.in_container and not run.id.container_id:
            return ProbeResult(passed=False, detail="InContainer, but the service has no container")
        output, within = Output(), check.connect_timeout + check.response_timeout
        key = (run.id, str(check.command), check.in_container)
        try:
            async with asyncio.timeout(within):
                return _judged(await self._run(check, run, key, output), output)
        except TimeoutError:
            return self._too_late(key, output, within, in_container=check.in_container)
        except TooMuchOutput:
            return _failed(f"the command printed more than {MOST >> 20} MiB", output)
        except (DockerError, OSError, ValueError) as error:
            return _not_run(error)

    async def close(self) -> None:
        await self._commands.close()
        await self._leftovers.close()

    async def _run(self, check: ExecCheck, run: Run, key: Hashable, output: Output) -> int:
        """The command's exit code."""
        command = ["/bin/sh", "-c", check.command] if isinstance(check.command, str) else check.command
        number, by_itself = self._leftovers.begin(), False
        environment = self._leftovers.environment(number)
        environment |= {"ENDPOINT_HOST": run.host, "ENDPOINT_PORT": str(run.port)}
        try:
            if check.in_container:
                code = await self._containers.execute(
                    run.id.container_id, command, environment=environment, take=output.take
                )
            else:
                environment["PATH"] = os.environ.get("PATH", os.defpath)
                code = await self._commands.run(key, command, environment=environment, take=output.take)
            by_itself = True
            return code
        finally:
            self._leftovers.end(number, by_itself=by_itself)

    def _too_late(self, key: Hashable, output: Output, within: float, *, in_container: bool) -> ProbeResult:
        if output.started:
            return _failed(f"the command did not end within {within:g} s", output)
        if in_container:
            why = f"Docker did not start the command within {within:g} s"
            return ProbeResult(passed=False, detail=why, counts=False)
        stuck = " of the check before was killed, and" if self._commands.is_stuck(key) else ""
        return _failed(f"the command{stuck} has not ended after {within:g} s", output)


def _judged(code: int, output: Output) -> ProbeResult:
    if code == 0:
        return ProbeResult(passed=True, detail="the command ended with 0")
    if code < 0:
        return _failed(f"the command was ended by {_signal_name(-code)}", output)
    return _failed(f"the command ended with {code}", output)


def _not_run(error: Exception) -> ProbeResult:
    """The answer when the command did not even begin."""
    match error:
        case DockerError():
            known = not isinstance(error, DockerUnreachable)
            return ProbeResult(passed=False, detail=str(error), counts=known)
        case OSError():
            return failed_by_system("the command cannot be started", error)
        case _:
            return ProbeResult(passed=False, detail="the command cannot be started: it has a null character")


def _failed(why: str, output: Output) -> ProbeResult:
    said = str(output)
    return ProbeResult(passed=False, detail=f"{why}: {said}" if said else why)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
