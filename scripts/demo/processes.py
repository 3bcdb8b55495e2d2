"""Processes and directories of the demo: started apart from the terminal, ended by pid, none left.

Everything that the demo starts names the demo's own temporary directory on its command line. That
is how it is found again at the end, also what outlives its parent on purpose, as HAProxy does.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path


class Failed(Exception):
    """A step did not work; the message says which, and what to do."""


def start(
    arguments: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a program in a session of its own: Ctrl-C in the terminal is for the demo alone."""
    with log.open("ab") as output:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], *, patience: float = 10) -> None:
    """Asks the program to end; kills it when it has not after ``patience`` seconds."""
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def naming(text: str) -> Iterator[int]:
    """The pids of all other processes whose command line names ``text``."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if text.encode() in (entry / "cmdline").read_bytes():
                    yield int(entry.name)


def end_all_naming(text: str, *, patience: float = 5) -> None:
    """Ends every process whose command line names ``text``."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in naming(text):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        if wait_until(lambda: not any(naming(text)), timeout=patience):
            return


def wait_until(holds: Callable[[], bool], *, timeout: float, pause: float = 0.05) -> bool:
    """Asks again and again; whether it held within ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


def remove_directory(directory: Path) -> None:
    """Ends what still works in the directory, and removes it."""
    end_all_naming(str(directory))
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        raise Failed(f"{directory} could not be removed; something is still mounted or running in it")
