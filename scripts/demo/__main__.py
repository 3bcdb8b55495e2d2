"""Orbit Control on one machine, from an empty store to a new revision, before your eyes.

``make demo`` runs this after it has set everything up; ``--once`` ends after the last step, with
exit code 0 only when every step was seen to work. All that the demo makes lies in one temporary
directory and ends with it: processes by their pids, containers, the network bridge, the directory.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import show
from engine import Engine
from processes import Failed, remove_directory
from story import Story

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Somebody asked the demo to end; not an error, so nothing that handles errors may catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _interrupt(number: int, _frame: FrameType | None) -> None:
    for each in _SIGNALS:  # cleaning up takes seconds, and must not be cut short by impatience
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)


def main() -> int:
    """Runs the demo; its exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the last step")
    once = parser.parse_args().once
    os.chdir(Path(__file__).resolve().parents[2])  # so that the commands it shows can be typed as they are
    for each in _SIGNALS:
        signal.signal(each, _interrupt)
    try:
        with ExitStack() as stack:
            code = _run(stack, once=once)
    except Failed as failure:
        show.failure(str(failure))
        return 1
    if code == 0:
        show.line("Every step was seen to work, and nothing of it is left.")
    return code


def _run(stack: ExitStack, *, once: bool) -> int:
    """Tells the story; what the stack holds is undone afterwards, however it went."""
    directory = Path(tempfile.mkdtemp(prefix="orbit-demo-"))
    stack.callback(remove_directory, directory)
    told = False
    try:
        Story.check_ports()
        engine = stack.enter_context(Engine(directory))
        story = stack.enter_context(Story(directory, docker_host=engine.host))
        story.tell()
        told = True
        if not once:
            story.stay()
    except Interrupted as interrupted:
        show.line()
        return 0 if told else 128 + interrupted.number
    except Failed:
        show.log_tail(directory / "daemon.log")
        raise
    finally:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        show.heading("Cleaning up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
