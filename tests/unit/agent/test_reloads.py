"""When a reload may happen: changes that need one are bundled, each time anew."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from orbitcontrol.agent.board import Board
from orbitcontrol.agent.reloads import Reloads
from orbitcontrol.statedir import StateDirectory

QUIET, LONGEST = 1.0, 4.0


class Steps:
    """Steps of a loop, each at a second of a clock: the text that needs a reload, or None."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = 0.0
        monkeypatch.setattr("orbitcontrol.agent.reloads.time", SimpleNamespace(monotonic=lambda: self._now))
        self._reloads = Reloads(board=Board(), files=StateDirectory(directory), quiet=QUIET, longest=LONGEST)

    def take(self, at: float, *texts: str) -> list[float]:
        """How long each of the texts still waits in this step."""
        self._now = at
        pauses = [self._reloads.pause(text) for text in texts]
        self._reloads.settle()
        return pauses


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(tmp_path, monkeypatch)


def test_a_reload_waits_until_changes_pause_but_not_for_ever(steps: Steps) -> None:
    assert steps.take(10, "a") == [1]
    assert steps.take(11, "b") == [1]
    assert steps.take(11.5, "b") == [0.5]
    assert steps.take(13.5, "c") == [0.5]
    assert steps.take(14, "d") == [0]


def test_a_reload_that_became_unnecessary_leaves_the_next_one_its_wait(steps: Steps) -> None:
    steps.take(10, "a")
    steps.take(10.5)
    assert steps.take(100, "b") == [1]


def test_what_else_is_tried_in_a_step_does_not_put_off_a_reload_that_is_still_needed(steps: Steps) -> None:
    for moment in range(10, 13):
        steps.take(moment, f"good {moment}", f"wanted {moment}")
    assert steps.take(14, "good 14", "wanted 14") == [0, 0]
