"""The kinds of tests: run in order, counted apart, and in CI none left out.

Quick ones come first, so that a slip shows at once and no program is started for it.

A number of passed tests says little when half of them never met a real program. So pure tests and
laws are counted apart from those that run etcd, Docker and HAProxy. Where ``CI`` is set a skipped
test fails the run: there everything that a test asks for is installed first, and a skip would hide
that it was not.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

_KINDS = {"unit": "unit tests", "laws": "laws", "integration": "integration tests", "lab": "lab tests"}
_OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed")


def _kind(nodeid: str) -> str:
    """The folder below ``tests`` says what kind a test is."""
    folder = nodeid.removeprefix("tests/").partition("/")[0]
    return _KINDS.get(folder, "other tests")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the kinds in their order, and of each the long ones first; otherwise nothing moves."""
    order = list(_KINDS.values())

    def place(item: pytest.Item) -> tuple[int, bool]:
        kind = _kind(item.nodeid)
        return order.index(kind) if kind in order else len(order), not _is_long(item)

    items.sort(key=place)


def _is_long(item: pytest.Item) -> bool:
    """Whether a test runs whole daemons or an engine, or says itself that it takes its time.

    With tests at the same time none of these should be the last, for which all but one worker wait.
    """
    return "cluster" in getattr(item, "fixturenames", ()) or item.get_closest_marker("timeout") is not None


def _counted(reporter: pytest.TerminalReporter) -> dict[str, Counter[str]]:
    """How many tests of each kind ended how. A test that failed twice (call, teardown) counts twice."""
    counts: dict[str, Counter[str]] = {}
    for outcome in _OUTCOMES:
        for report in reporter.stats.get(outcome, []):
            counts.setdefault(_kind(report.nodeid), Counter())[outcome] += 1
    return counts


def _is_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails the run in CI when a test was skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and _is_ci() and reporter.stats.get("skipped") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each kind of test, before pytest's own closing lines."""
    counts = _counted(terminalreporter)
    if counts:
        terminalreporter.section("by kind")
    for kind, outcomes in counts.items():
        ended = ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in _OUTCOMES if outcomes[outcome])
        terminalreporter.line(f"{kind}: {ended}")
    if _is_ci() and terminalreporter.stats.get("skipped"):
        terminalreporter.line("Nothing may be skipped in CI: the run has failed.", red=True)
