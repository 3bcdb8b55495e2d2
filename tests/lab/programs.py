"""Programs of the lab: they end with the process that started them, however that ends.

The kernel kills them when their parent *thread* ends (``PR_SET_PDEATHSIG``), so one thread that lives as
long as the lab starts them all, whoever asks for it. What a host runs is started inside of its process
namespace, through ``nsenter``, which stays before it as its parent outside.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self, TypeVar

from lab.commands import LabError

T = TypeVar("T")

MORTAL = ("setpriv", "--pdeathsig", "KILL")
"""What is started through this ends with the thread that started it."""

_START = 10.0
_END = 20.0


class Starter:
    """A context with the one thread that starts programs."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lab-starter")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def __call__(self, start: Callable[[], T]) -> T:
        """What ``start`` returns, called in that thread."""
        return self._thread.submit(start).result()


class Program:
    """One program, which can be started, frozen and killed any number of times.

    ``behind`` is the command that it is started through. With ``inside`` that command has it as its only
    child, in another process namespace; signals are for the child.
    """

    def __init__(
        self,
        starter: Starter,
        command: Sequence[str],
        *,
        log: Path,
        behind: Callable[[], Sequence[str]] = tuple,
        inside: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        self._starter = starter
        self._command = command
        self._behind = behind
        self._inside = inside
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0

    @property
    def pid(self) -> int:
        """Its process id, as seen from outside of all hosts."""
        if not self.runs:
            raise LabError(f"{self._command[0]} is not running")
        return self._pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        if self.runs:
            raise LabError(f"{self._command[0]} runs already")
        self._process = self._starter(self._popen)
        self._pid = self._child() if self._inside else self._process.pid

    def kill(self) -> None:
        """Ends it at once; it has ended when this returns. Nothing happens if it does not run."""
        self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ends it by a signal, by force if that takes too long."""
        if self._process is None:
            return
        if self.runs:
            self.signal(number)
            self.thaw()
        try:
            self._process.wait(_END)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self._process.wait(_END)
        self._process = None

    def forget(self) -> None:
        """After its whole host has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_END)
            self._process = None

    def freeze(self) -> None:
        """It hangs, its connections open, until ``thaw``."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Ends ``freeze``, unless it was killed meanwhile."""
        if self._process is not None and self.runs:
            self.signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGCONT)  # nsenter stops when its child does

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def complain(self) -> None:
        """Raises LabError with the end of its log if it has ended."""
        if not self.runs:
            raise LabError(f"{self._command[0]} has ended:\n{self.text()[-2000:]}")

    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _popen(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*MORTAL, *self._behind(), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                cwd="/",
                start_new_session=True,  # Ctrl-C in a terminal is for the lab alone
            )

    def _child(self) -> int:
        assert self._process is not None
        return only_child(self._process)


def only_child(process: subprocess.Popen[bytes]) -> int:
    """The pid of the one child that the process is about to have."""
    deadline = time.monotonic() + _START
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while time.monotonic() < deadline and process.poll() is None:
        if found := children.read_text().split():
            return int(found[0])
        time.sleep(0.002)
    raise LabError(f"{process.args!r} started nothing; it ended with {process.poll()}")
