"""A lab's name and directory, and what labs left behind whose process was killed.

A killed lab's processes end with it (``programs.py``). Names of network namespaces, control groups and
files stay. All of them carry the lab's name, and a lab that lives holds a lock in its directory: what
carries the name of one that does not is removed by the next lab. (A process id alone would not do: it
may belong to somebody else by then.)
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO

_NAME = re.compile(r"orbit-lab-\d+-\d+")
_DIRECTORIES = Path("/tmp")
_NAMESPACES = Path("/run/netns")
_CGROUPS = Path("/sys/fs/cgroup")
_BIRTHS = Path("/tmp/orbit-lab.lock")
_CGROUP_PATIENCE = 5.0


@contextmanager
def home() -> Iterator[Path]:
    """A directory whose name is the lab's; in the end everything that carries the name is removed.

    Its path is short, because sockets lie in it.
    """
    with _alone():
        _remove_dead()
        directory, lock = _directory()
    with lock:
        try:
            yield directory
        finally:
            remove(directory.name)


def remove_leftovers() -> list[str]:
    """Removes what labs left that live no more; their names."""
    with _alone():
        return _remove_dead()


def remove(name: str) -> None:
    """Removes everything that carries the lab's name and is no process."""
    for namespace in _namespaces(name):
        subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)
    for group in _groups(name):
        _remove_group(group)
    shutil.rmtree(_DIRECTORIES / name, ignore_errors=True)


def left_of(name: str) -> list[str]:
    """Whatever there is that carries the lab's name, processes included."""
    found = [f"namespace {each}" for each in _namespaces(name)]
    found += [f"control group {each}" for each in _groups(name)]
    found += [f"process {pid}: {words}" for pid, words in processes_naming(name)]
    return found + [str(each) for each in _DIRECTORIES.glob(name)]


def processes_naming(text: str) -> Iterator[tuple[int, str]]:
    """Pid and command line of every other process whose command line has the text."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if text in words:
                    yield int(entry.name), words.strip()


@contextmanager
def _alone() -> Iterator[None]:
    """No lab is just coming into being meanwhile."""
    with _BIRTHS.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_dead() -> list[str]:
    dead = [name for name in sorted(_names()) if not _lives(name)]
    for name in dead:
        remove(name)
    return dead


def _directory() -> tuple[Path, IO[str]]:
    """A new directory, and the file in it whose lock ends with this process in any case."""
    for number in count():
        directory = _DIRECTORIES / f"orbit-lab-{os.getpid()}-{number}"
        with suppress(FileExistsError):
            directory.mkdir()
            break
    lock = (directory / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return directory, lock


def _lives(name: str) -> bool:
    try:
        with (_DIRECTORIES / name / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _names() -> set[str]:
    found = [each.name for each in _DIRECTORIES.glob("orbit-lab-*")]
    found += _namespaces("orbit-lab-")
    found += [each.name for each in _groups("orbit-lab-*")]
    return {match[0] for each in found if (match := _NAME.match(each))}


def _namespaces(prefix: str) -> list[str]:
    return [each.name for each in _NAMESPACES.glob(f"{prefix}*")]


def _groups(name: str) -> list[Path]:
    """Control groups of the name, in the one hierarchy of version 2 or in each of version 1."""
    return [*_CGROUPS.glob(name), *_CGROUPS.glob(f"*/{name}")]


def _remove_group(group: Path) -> None:
    """Removes a control group with all below it; one whose processes are just ending takes a moment."""
    deadline = time.monotonic() + _CGROUP_PATIENCE
    while group.exists() and time.monotonic() < deadline:
        for below in sorted(group.glob("**/"), reverse=True):
            with suppress(OSError):
                below.rmdir()
        if group.exists():
            time.sleep(0.05)
