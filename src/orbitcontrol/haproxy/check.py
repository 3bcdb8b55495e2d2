"""``haproxy -c``: HAProxy's own opinion of a configuration, before it gets it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from orbitcontrol.codec.haproxy import CheckResult, parse_messages
from orbitcontrol.errors import HAProxyError

CHECK_DEADLINE = 30.0
"""Seconds for one check: 5,000 servers take 0.2, names that no resolver answers take much longer."""


async def check_file(binary: str, path: Path, *, deadline: float = CHECK_DEADLINE) -> CheckResult:
    """HAProxy's verdict on the file. Raises HAProxyError when it could not be asked.

    HAProxy ends with 0 for a configuration it would run, 1 for one it refuses, 2 for one without
    anything to listen on, which would not start either. ``-V`` makes it say why in spite of a
    ``quiet`` in the configuration.
    """
    status, output = await run_program([binary, "-V", "-c", "-f", str(path)], deadline=deadline)
    return CheckResult(accepted=status == 0, file=str(path), messages=parse_messages(output))


async def run_program(command: list[str], *, deadline: float) -> tuple[int, str]:
    """Runs a program from ``/`` to its end: exit status and all it printed.

    At the deadline it is killed, with whatever it has started in its session.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd="/",
            env=environment(),
            start_new_session=True,
        )
    except FileNotFoundError:
        raise HAProxyError(
            f"{command[0]}: no such program; install HAProxy, or say where it is with --haproxy-binary"
        ) from None
    except OSError as error:
        raise HAProxyError(f"{command[0]}: cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(deadline):
            output, _ = await process.communicate()
    except TimeoutError:
        raise HAProxyError(f"{' '.join(command)}: no answer in {deadline:g} s, ended") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")


def environment() -> dict[str, str]:
    """The environment for HAProxy: ours, without our settings, which hold passwords."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ORBITCTL_")}
