"""What a machine makes of a generation, read off what it says of itself.

An import is in force once it is in the store, and nobody can promise for the machines: HAProxy may
refuse there what it takes elsewhere, because a port is taken or its version is another. So each machine
records the generation that it plans from, and a load balancer what HAProxy said of the template that
came with it. Both are compared by epoch *and* generation: a machine that knew another store may have
seen higher numbers there.

A machine that speaks of a later generation has answered: what it says is then said of the later one.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from orbitcontrol.model.configuration import Desired
from orbitcontrol.model.state import MachineRecord, Problem

State = Literal["accepted", "rejected", "pending", "unreachable"]

_HELD = "which template this machine is to have cannot be told from its configuration"
_UNREACHABLE = "its daemon has no lease: it is stopped or cut off"
_OF_THE_STORE = frozenset({"store", "configuration"})
_OF_HAPROXY = frozenset({"haproxy", "proxy"})


class Question(Struct, frozen=True, kw_only=True):
    """Which generation is asked about; ``balancing`` are the tags that carry a template in it."""

    epoch: str
    generation: int
    balancing: frozenset[str] = frozenset()


class MachineVerdict(Struct, frozen=True, kw_only=True, rename="pascal"):
    """One machine's answer. ``generation`` is the newest one that it has spoken of, in whatever epoch."""

    machine: str
    state: State
    generation: int = 0
    reason: str = ""

    @property
    def is_final(self) -> bool:
        """True once the machine has said yes or no."""
        return self.state in ("accepted", "rejected")


def verdict_of(address: str, record: MachineRecord, *, alive: bool, question: Question) -> MachineVerdict:
    """What the machine with this record makes of the generation in question."""

    def answer(state: State, reason: str = "") -> MachineVerdict:
        return MachineVerdict(machine=address, state=state, generation=record.generation, reason=reason)

    if not alive:
        return answer("unreachable", _UNREACHABLE)
    if not _reaches(record.epoch, record.generation, question):
        return answer("pending", record.holding or _told(record, _OF_THE_STORE))
    proxy = record.proxy if question.balancing.intersection(record.tags) else None
    if proxy is None and question.balancing.intersection(record.tags):
        return answer("pending", _told(record, _OF_HAPROXY))
    if proxy is not None and not _reaches(proxy.epoch, proxy.generation, question):
        return answer("pending", _told(record, _OF_HAPROXY))
    refused = [] if proxy is None or proxy.accepted else [proxy.error]
    refused += [f"{problem.subject}: {problem.reason}" for problem in record.held]
    if not refused:
        return answer("accepted")
    later = f"generation {record.generation}: " if record.generation > question.generation else ""
    return answer("rejected", later + "\n".join(refused))


def held_of(desired: Desired) -> tuple[Problem, ...]:
    """What of its configuration the machine cannot follow, but for the template, of which HAProxy speaks."""
    subjects = {*(f"service {name}" for name in desired.held), "global properties"}
    return tuple(problem for problem in desired.problems if problem.subject in subjects)


def why_template_held(desired: Desired) -> str:
    """Why it cannot be told which template the machine is to have."""
    reasons = [problem.reason for problem in desired.problems if problem.subject == "template"]
    return "; ".join(reasons) or _HELD


def _reaches(epoch: str, generation: int, question: Question) -> bool:
    return epoch == question.epoch and generation >= question.generation


def _told(record: MachineRecord, subjects: frozenset[str]) -> str:
    return "; ".join(problem.reason for problem in record.problems if problem.subject in subjects)
