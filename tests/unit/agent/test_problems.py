import logging

import pytest

from orbitcontrol.agent.board import Problems
from orbitcontrol.model.state import Problem


def test_a_problem_is_logged_once_and_its_end_once_however_many_notice_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    problems = Problems()
    with caplog.at_level(logging.INFO):
        for watch in ("meta", "alive", "meta"):
            problems.report(f"mirror {watch}", {"store": "no answer"})
        assert problems.cell.value == (Problem(subject="store", reason="no answer"),)
        problems.report("mirror meta", {})
        problems.report("mirror alive", {})
    assert [record.getMessage() for record in caplog.records] == ["problem", "problem ended"]
    assert not problems.cell.value
