from __future__ import annotations

import pytest
from msgspec import structs

from orbitcontrol.model.rollouts import Aim, Rollout
from orbitcontrol.model.service import Update
from orbitcontrol.model.state import InstanceReport, MachineRecord
from orbitcontrol.planning.awaited_rollouts import ServiceVerdict, service_verdicts
from orbitcontrol.planning.verdicts import Question

QUESTION = Question(epoch="e", generation=5)
REPORT = InstanceReport(service="web", instance=1, state="running", generation=5)
RECORD = MachineRecord(epoch="e", generation=5, instances=(REPORT,))
ROLLOUT = Rollout(id="r", cause="configuration", target=Aim(generation=5), state="complete")


def verdict(
    record: MachineRecord = RECORD, rollout: Rollout | None = None, *, alive: bool = True
) -> ServiceVerdict:
    """The one of web, which is touched on machine a."""
    [found] = service_verdicts(
        QUESTION,
        {"a": ["web"], "b": []},
        records={"a": record},
        alive={"a"} if alive else (),
        rollouts={} if rollout is None else {"web": rollout},
    )
    return found


def with_report(report: InstanceReport) -> MachineRecord:
    return structs.replace(RECORD, instances=(report,))


@pytest.mark.parametrize(
    ("what", "record", "rollout", "state"),
    [
        ("nothing had to be replaced", RECORD, None, "done"),
        ("nothing runs there", structs.replace(RECORD, instances=()), None, "done"),
        ("the machine has not taken it up", structs.replace(RECORD, generation=4), None, "pending"),
        ("the machine speaks of another store", structs.replace(RECORD, epoch="other"), None, "pending"),
        ("its report is of before", with_report(structs.replace(REPORT, generation=4)), None, "pending"),
        ("the old one runs", with_report(structs.replace(REPORT, outdated=True)), None, "pending"),
        (
            "another service's old one runs",
            with_report(structs.replace(REPORT, service="api", outdated=True)),
            None,
            "done",
        ),
        (
            "what it is to be cannot be told",
            with_report(structs.replace(REPORT, state="held", generation=0)),
            None,
            "done",
        ),
        ("the rollout has done it", RECORD, ROLLOUT, "done"),
        ("the rollout goes on elsewhere", RECORD, structs.replace(ROLLOUT, state="running"), "pending"),
        ("a later rollout has done it", RECORD, structs.replace(ROLLOUT, cause="revision"), "done"),
        (
            "a rollout of before",
            RECORD,
            structs.replace(ROLLOUT, target=Aim(generation=4), state="failed"),
            "done",
        ),
        ("the rollout has failed", RECORD, structs.replace(ROLLOUT, state="failed"), "failed"),
        ("the rollout is a canary", RECORD, structs.replace(ROLLOUT, state="paused"), "paused"),
        (
            "a revision goes back by itself",
            RECORD,
            structs.replace(ROLLOUT, cause="revision", state="failed", previous=Aim(), policy=Update()),
            "pending",
        ),
    ],
)
def test_a_service_is_done_when_machines_and_rollout_say_so(
    what: str, record: MachineRecord, rollout: Rollout | None, state: str
) -> None:
    assert verdict(record, rollout).state == state, what


def test_a_machine_that_is_gone_is_not_waited_for() -> None:
    late = with_report(structs.replace(REPORT, outdated=True))
    assert verdict(late).reason == "a left"
    assert verdict(late, alive=False).state == "done"
