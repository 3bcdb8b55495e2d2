"""Tests at the same time: every worker of pytest-xdist is a machine of its own as far as they can tell.

Most integration tests wait more than they compute, so there are more workers than processors. What
tests at the same time would quarrel over is the machine: ports that were free a moment ago, addresses
of 127.0.0.0/8, ranges of ports for containers, and above all the Docker engine, whose bridge and rules
bear no second engine beside them. So each worker leaves for a network and a mount namespace before it
collects. There it runs an engine of its own, under a lock of its own, and no test has to know.

``make test`` has as many workers as this module says; ``pytest`` by itself runs in one process, where
the machine is everybody's.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

from support.docker import LOCK

_CLONE_NEWNS, _CLONE_NEWNET = 0x0002_0000, 0x4000_0000  # sched.h; os.unshare came with Python 3.12
_FOR_EACH_PROCESSOR = 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """The workers of ``-n auto``; 0, all in this process, where they could not be kept apart.

    Namespaces are for root alone; and an engine that is there already publishes its ports outside.
    """
    if os.environ.get("ORBIT_TEST_DOCKER_HOST") or not _may_leave():
        return 0
    return _FOR_EACH_PROCESSOR * len(os.sched_getaffinity(0))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Makes a worker a machine of its own. The name of its directory is short: sockets will lie below it."""
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        directory = Path(config.option.basetemp).with_name(worker["workerid"])
        config.option.basetemp = str(directory)
        _leave(directory.with_suffix(".lock"))


def _may_leave() -> bool:
    """Whether namespaces can be made here: a container's root often may not."""
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False)
    return tried.returncode == 0


def _leave(own_lock: Path) -> None:
    """Moves this process, with all that it starts from now on, to a network and mounts of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for path in (own_lock, LOCK):
        path.touch()
    subprocess.run(["mount", "--bind", str(own_lock), str(LOCK)], check=True)
