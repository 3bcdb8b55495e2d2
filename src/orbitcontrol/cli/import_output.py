"""What ``plan`` and ``import`` print for programs, as JSON or YAML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from orbitcontrol.ops.importing import ImportResult, PlannedImport
from orbitcontrol.planning.awaited_rollouts import ServiceVerdict
from orbitcontrol.planning.verdicts import MachineVerdict

if TYPE_CHECKING:
    from orbitcontrol.cli.import_wait import WaitOutcome


class ShownChange(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A change as ``plan -o json`` prints it; ``kind`` is added, changed or removed."""

    key: str
    kind: str
    details: tuple[str, ...]


class ShownMachine(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A machine that a plan touches, with the number of its containers by service."""

    machine: str
    containers: dict[str, int]


class ShownPlan(Struct, frozen=True, kw_only=True, rename="pascal"):
    """The record that ``plan -o json`` prints."""

    changes: list[ShownChange]
    machines: list[ShownMachine]
    unchanged: int


class ShownImport(ShownPlan, frozen=True, kw_only=True, rename="pascal"):
    """The record that ``import -o json`` prints: the plan, and what became of it.

    ``generation`` is the one in force; ``written`` is false when it was already. ``verdicts`` and
    ``rollouts`` are what ``--wait`` waits for.
    """

    generation: int
    written: bool
    verdicts: list[MachineVerdict] = []
    rollouts: list[ServiceVerdict] = []


def shown_plan(planned: PlannedImport) -> ShownPlan:
    """The record of a plan."""
    return ShownPlan(
        changes=[
            ShownChange(key=change.key, kind=change.kind, details=change.details)
            for change in planned.plan.changes
        ],
        machines=[
            ShownMachine(machine=machine.address, containers=machine.containers)
            for machine in planned.impact.machines
        ],
        unchanged=planned.plan.unchanged,
    )


def shown_import(planned: PlannedImport, result: ImportResult, outcome: WaitOutcome | None) -> ShownImport:
    """The record of an import."""
    shown = shown_plan(planned)
    return ShownImport(
        changes=shown.changes,
        machines=shown.machines,
        unchanged=shown.unchanged,
        generation=result.meta.generation,
        written=result.written,
        verdicts=[] if outcome is None else list(outcome.machines),
        rollouts=[] if outcome is None else list(outcome.services),
    )
