"""Load on a lab, and the report of what its clients saw."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from lab.commands import LabError
from lab.load_words import Event, Failure, Plan, Retry, Sighting, Summary
from lab.programs import MORTAL, Starter
from support.machine import eventually

T = TypeVar("T")

_TESTS = Path(__file__).parents[1]
_MORE_THAN_A_TIMEOUT = 10.0
_TOO_FAR_BEHIND = 0.5


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What clients saw; see ``load_words.py``."""

    summary: Summary
    failures: list[Failure]
    retries: list[Retry]
    sightings: list[Sighting]

    @property
    def is_sound(self) -> bool:
        """False where the clients themselves were too slow: then times say little about what they asked."""
        return self.summary.behind < _TOO_FAR_BEHIND and not any(
            each.kind == "unsent" for each in self.failures
        )

    @property
    def rate(self) -> float:
        """Requests that were sent in a second."""
        return self.summary.sent / max(self.summary.ended - self.summary.began, 0.001)

    def first(self, revision: str) -> float | None:
        """When the first answer of a revision came."""
        return min((each.at for each in self.sightings if each.revision == revision), default=None)

    def text(self) -> str:
        """The report for people."""
        told = self.summary
        half, most, longest = (f"{seconds * 1000:.0f} ms" for seconds in told.quick)
        lines = [
            f"{told.sent} requests, {self.rate:.0f} a second: {len(self.failures)} failed",
            f"tried again on a new connection: {len(self.retries)}; found closed: {told.closed_idle}",
            f"quick answers took {half} (half), {most} (99 of 100), {longest} (all)",
            f"the clients were {told.behind * 1000:.0f} ms behind at most",
        ]
        if not self.is_sound:
            lines.append("the clients were too slow for this rate: times say little about what they asked")
        for revision, number in sorted(told.answers.items()):
            first = (self.first(revision) or told.began) - told.began
            last = told.last[revision] - told.began
            lines.append(f"revision {revision}: {number} answers, from {first:.2f} s to {last:.2f} s")
        kinds = Counter((each.kind, each.request.target, each.detail) for each in self.failures)
        lines += [
            f"failed: {number} {kind} at {target}: {detail}"
            for (kind, target, detail), number in kinds.most_common(20)
        ]
        return "\n".join(lines)


class Load:
    """A context in which clients ask all the time. ``report`` tells afterwards what they saw."""

    _numbers = count(1)

    def __init__(self, plan: Plan, *, starter: Starter, directory: Path) -> None:
        if not plan.targets:
            raise LabError("there is no load balancer to send requests to")
        self.plan = plan
        self._starter = starter
        self._told = directory / f"load-{next(self._numbers)}.jsonl"
        self._process: subprocess.Popen[bytes] | None = None
        self._report: Report | None = None

    def __enter__(self) -> Self:
        self._process = self._starter(self._popen)
        eventually(self._begun, what="a first answer or failure")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def report(self) -> Report:
        if self._report is None:
            raise LabError("the load has not ended yet")
        return self._report

    def stop(self) -> Report:
        """Sends no more, awaits the answers to what is open."""
        if self._process is not None:
            try:
                self._process.communicate(timeout=self.plan.timeout + _MORE_THAN_A_TIMEOUT)
            finally:
                self._process.kill()
                self._process.wait()
            self._process = None
            self._report = self._written()
        return self.report

    def failures(self) -> list[Failure]:
        """Those so far."""
        return _only(Failure, self.events())

    def sightings(self) -> list[Sighting]:
        """Those so far."""
        return _only(Sighting, self.events())

    def events(self) -> list[Event]:
        """All that was told so far."""
        lines = self._told.read_bytes().split(b"\n")[:-1]
        return [_decoder.decode(line) for line in lines]

    def _begun(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise LabError(f"the load has ended with {self._process.returncode}")
        return bool(self.events())

    def _written(self) -> Report:
        events = self.events()
        summaries = _only(Summary, events)
        if not summaries:
            raise LabError("the load ended without a summary")
        return Report(
            summary=summaries[0],
            failures=_only(Failure, events),
            retries=_only(Retry, events),
            sightings=_only(Sighting, events),
        )

    def _popen(self) -> subprocess.Popen[bytes]:
        plan = msgspec.json.encode(self.plan).decode()
        with self._told.open("wb") as told:
            return subprocess.Popen(
                [*MORTAL, sys.executable, "-m", "lab.load_client", plan],
                stdin=subprocess.PIPE,
                stdout=told,
                cwd=_TESTS,
                start_new_session=True,
            )


_decoder = msgspec.json.Decoder(Event)


def _only(kind: type[T], events: list[Event]) -> list[T]:
    return [each for each in events if isinstance(each, kind)]
