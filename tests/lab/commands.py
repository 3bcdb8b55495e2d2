"""Programs of the system that do one thing and end."""

from __future__ import annotations

import subprocess

_TIMEOUT = 60


class LabError(Exception):
    """The lab cannot be what was asked of it; the message says what and why."""


def run(*command: str, stdin: bytes | None = None) -> str:
    """Runs a command; its output. Raises LabError with what it complained about."""
    ran = subprocess.run(command, input=stdin, capture_output=True, timeout=_TIMEOUT, check=False)
    if ran.returncode != 0:
        raise LabError(f"{' '.join(command)}: {ran.stderr.decode(errors='replace').strip()}")
    return ran.stdout.decode()


def ip(*arguments: str, within: str = "") -> str:
    """``ip …``, in a named network namespace or in this process's own."""
    return run("ip", *(["-n", within] if within else []), *arguments)
