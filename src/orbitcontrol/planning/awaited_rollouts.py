"""What becomes of the containers that an import changes: ``import --wait``, after the machines' verdicts.

A rollout begins a moment after the import, made by the first machine that would have to replace a
container; where a revision hides the change of an image's tag, none begins at all. So it cannot be waited
for by looking for the rollout alone. What can be told soundly is told by the machines: each report of an
instance says of which generation it speaks, and whether the container is outdated in it.

A service is *done* when on every machine that is alive and was touched there is no report of an older
generation and no outdated container, and its newest rollout for this generation or a later one has ended
well or never was. A rollout begins before it replaces anything; hence, in one reading, a machine whose
container was replaced shows no less than the rollout that did it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from msgspec import Struct

from orbitcontrol.model.rollouts import Rollout
from orbitcontrol.model.state import MachineRecord
from orbitcontrol.planning.rollout_records import reverts
from orbitcontrol.planning.verdicts import Question

_HELD = "held"
"""The machine cannot tell what the container is to be, and leaves it: its own verdict says so."""

Touched = Mapping[str, Collection[str]]
"""The services whose containers change, by machine."""


class ServiceVerdict(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What became of a service's containers. ``rollout`` is the id of the one that did it, "" for none.

    ``pending`` while machines are at it, ``paused`` when its rollout waits for people.
    """

    service: str
    state: Literal["done", "failed", "paused", "pending"]
    rollout: str = ""
    reason: str = ""

    @property
    def is_final(self) -> bool:
        """True when nothing changes any more without people."""
        return self.state != "pending"


def service_verdicts(
    question: Question,
    touched: Touched,
    *,
    records: Mapping[str, MachineRecord],
    alive: Collection[str],
    rollouts: Mapping[str, Rollout],
) -> tuple[ServiceVerdict, ...]:
    """Each touched service's verdict, from one reading of the store."""
    services = sorted({service for some in touched.values() for service in some})
    verdicts = []
    for service in services:
        late = [
            machine
            for machine in sorted(touched)
            if service in touched[machine]
            and machine in alive
            and not _has_arrived(records.get(machine, MachineRecord()), service, question)
        ]
        verdicts.append(_verdict(service, late, rollouts.get(service), question))
    return tuple(verdicts)


def _has_arrived(record: MachineRecord, service: str, question: Question) -> bool:
    if record.epoch != question.epoch or record.generation < question.generation:
        return False
    return all(
        report.generation >= question.generation and not report.outdated
        for report in record.instances
        if report.service == service and report.state != _HELD
    )


def _verdict(
    service: str, late: Collection[str], rollout: Rollout | None, question: Question
) -> ServiceVerdict:
    waits = f"{', '.join(late)} left" if late else ""
    if rollout is None or rollout.target.generation < question.generation:
        return ServiceVerdict(service=service, state="pending" if late else "done", reason=waits)
    match rollout.state:
        case "failed" if not reverts(rollout):
            return ServiceVerdict(service=service, state="failed", rollout=rollout.id, reason=rollout.reason)
        case "paused":
            return ServiceVerdict(service=service, state="paused", rollout=rollout.id, reason=rollout.reason)
        case "complete" if not late:
            return ServiceVerdict(service=service, state="done", rollout=rollout.id)
        case _:
            return ServiceVerdict(service=service, state="pending", rollout=rollout.id, reason=waits)
