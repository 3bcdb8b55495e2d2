"""Progress for people: redrawn in place on a terminal, one line for each piece of news elsewhere.

Everything goes to standard error. On a terminal that can do no more than a line printer, it is lines.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

import click

_UP_AND_CLEAR = "\x1b[{}A\x1b[J"


class LiveTable:
    """Lines that take the place of those before them; where nothing can be redrawn, only new ones."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._drawn = 0
        self._told: set[str] = set()

    @property
    def is_live(self) -> bool:
        return self._live

    def show(self, lines: Sequence[str]) -> None:
        """Shows the lines as they are now. In a file, each line is written when it is new."""
        if not self._live:
            for line in lines:
                if line not in self._told:
                    click.echo(line, err=True)
            self._told = set(lines)
            return
        size = shutil.get_terminal_size()
        fitting = list(lines[: size.lines - 2])
        if len(fitting) < len(lines):
            fitting[-1:] = [f"  … and {len(lines) - len(fitting) + 1} more"]
        above = _UP_AND_CLEAR.format(self._drawn) if self._drawn else ""
        click.echo(above + "".join(f"{line[: size.columns - 1]}\n" for line in fitting), err=True, nl=False)
        self._drawn = len(fitting)

    def note(self, line: str) -> None:
        """A line that stays."""
        click.echo(line, err=True)
        self._drawn = 0
