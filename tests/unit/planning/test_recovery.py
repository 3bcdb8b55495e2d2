"""What a store lost, told by what the fleet runs."""

from __future__ import annotations

import pytest
from msgspec import structs

from orbitcontrol.model.state import Deployment, InstanceReport
from orbitcontrol.planning.recovery import Restoration, Stored, Witness, plan_recovery, witnesses


def runs(machine: str, revision: str, serial: int, source: str = "service") -> Witness:
    return Witness(machine=machine, revision=revision, source=source, serial=serial)


def deployed(revision: str | None, serial: int) -> Deployment:
    return Deployment(revision=revision, serial=serial, deployment_time="t", user="u")


def restoration(revision: str | None, serial: int, *others: str, machine: str = "") -> Restoration:
    return Restoration(service="web", machine=machine, revision=revision, serial=serial, others=others)


@pytest.mark.parametrize(
    ("case", "seen", "stored", "planned"),
    [
        ("the store lost it", [runs("a", "R2", 7), runs("b", "R2", 7)], Stored(), [restoration("R2", 8)]),
        (
            "the store has an older one",
            [runs("a", "R2", 7)],
            Stored(service_wide=deployed("R1", 6)),
            [restoration("R2", 8)],
        ),
        (
            "the store has the very one",
            [runs("a", "R2", 7)],
            Stored(service_wide=deployed("R2", 7)),
            [],
        ),
        (
            "the store has a newer one, which the fleet has not reached",
            [runs("a", "R2", 7)],
            Stored(service_wide=deployed("R3", 8)),
            [],
        ),
        (
            "machines disagree: the newest is proposed, the others are named",
            [runs("a", "R1", 6), runs("b", "R2", 7), runs("c", "R0", 2)],
            Stored(),
            [restoration("R2", 8, "R0", "R1")],
        ),
        (
            "people had gone back to the image's own tag",
            [runs("a", "1.0", 7, "image")],
            Stored(),
            [restoration(None, 8)],
        ),
        ("nobody ever set one", [runs("a", "1.0", 0, "image")], Stored(), []),
        (
            "one machine had its own",
            [runs("a", "R2", 7), runs("b", "R9", 8, "machine")],
            Stored(),
            [restoration("R2", 9), restoration("R9", 9, machine="b")],
        ),
        (
            "one machine had its own before one for all, which deleted it",
            [runs("b", "R9", 5, "machine")],
            Stored(service_wide=deployed("R2", 7)),
            [],
        ),
        (
            "the store's serials count too",
            [runs("a", "R2", 7)],
            Stored(of_machines={"b": deployed("R5", 20)}),
            [restoration("R2", 21)],
        ),
    ],
)
def test_what_the_fleet_knows_and_the_store_does_not_is_written_back_above_all_serials(
    case: str, seen: list[Witness], stored: Stored, planned: list[Restoration]
) -> None:
    assert list(plan_recovery({"web": seen}, {"web": stored})) == planned, case


def test_after_it_was_written_nothing_is_planned() -> None:
    seen = {"web": [runs("a", "R1", 6), runs("b", "R2", 7), runs("c", "R9", 8, "machine")]}
    stored = Stored()
    for one in plan_recovery(seen, {}):
        value = deployed(one.revision, one.serial)
        stored = (
            structs.replace(stored, of_machines={**stored.of_machines, one.machine: value})
            if one.machine
            else structs.replace(stored, service_wide=value)
        )
    assert plan_recovery(seen, {"web": stored}) == ()


def test_only_containers_that_are_there_are_witnesses() -> None:
    def report(state: str, source: str = "service") -> InstanceReport:
        return InstanceReport(
            service="web", instance=1, state=state, revision="R2", revision_source=source, serial=7
        )

    told = {
        state: [report(state)] for state in ("running", "unhealthy", "held", "starting", "backoff", "failed")
    }
    told["a process of somebody else's"] = [report("running", source="")]
    assert {one.machine for one in witnesses(told)["web"]} == {"running", "unhealthy", "held"}
