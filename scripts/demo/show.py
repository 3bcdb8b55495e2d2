"""What the demo prints: headings, the commands it runs, and what they answer."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

_BOLD, _DIM, _RED, _PLAIN = (
    ("\033[1m", "\033[2m", "\033[31m", "\033[0m") if sys.stdout.isatty() else ("",) * 4
)


def line(text: str = "") -> None:
    """A line of the story."""
    print(text, flush=True)


def heading(text: str) -> None:
    """What comes next."""
    print(f"\n{_BOLD}── {text}{_PLAIN}", flush=True)


def command(arguments: Sequence[str], *, background: bool = False) -> None:
    """A command as a person would type it."""
    print(f"{_DIM}${_PLAIN} {shlex.join(arguments)}{' &' if background else ''}", flush=True)


def output(text: str) -> None:
    """What a command said."""
    for each in text.rstrip("\n").split("\n"):
        print(f"  {each}".rstrip(), flush=True)


def failure(text: str) -> None:
    """Why the demo ends before its time."""
    sys.stdout.flush()
    print(f"{_RED}The demo has failed:{_PLAIN} {text}", file=sys.stderr, flush=True)


def log_tail(path: Path, *, lines: int = 40) -> None:
    """The end of a log, for whoever has to find out what went wrong."""
    if path.exists():
        heading(f"The last lines of {path.name}")
        output("\n".join(path.read_text(errors="replace").splitlines()[-lines:]) or "(empty)")
