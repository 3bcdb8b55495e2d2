from __future__ import annotations

import pytest
from msgspec import structs

from orbitcontrol.codec.activity import Activity
from orbitcontrol.model.rollouts import Ack, Aim, LoadBalancer, Outcome, Past, Progress, Rollout, Slot
from orbitcontrol.model.service import Update
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.rollout_records import past_of, reverts
from orbitcontrol.planning.rollout_sight import End, ending_of, is_canary, sight_of

MINE = Rollout(id="mine", cause="revision", target=Aim(revision="R2"), previous=Aim(revision="R1"))
REVERT = structs.replace(MINE, id="back", revert_of="mine")
OTHER = structs.replace(MINE, id="other", user="bob")
MANUAL = structs.replace(MINE, policy=Update(auto_revert=False))


def past(rollout: Rollout, outcome: Outcome) -> Past:
    return past_of(rollout, outcome=outcome, ended="", reason=f"{rollout.id} {outcome}")


def state(rollout: Rollout, state: str, reason: str = "why") -> Rollout:
    return structs.replace(rollout, state=state, reason=reason)


@pytest.mark.parametrize(
    ("what", "record", "history", "end"),
    [
        ("it runs", MINE, [], None),
        ("it is done", state(MINE, "complete", ""), [], End(kind="complete")),
        ("it waits for people", state(MINE, "paused"), [], End(kind="paused", reason="why")),
        ("it fails and goes back", state(MINE, "failed"), [], None),
        ("it fails for good", state(MANUAL, "failed"), [], End(kind="failed", reason="why")),
        ("it is on its way back", REVERT, [], None),
        (
            "it is back",
            state(REVERT, "complete"),
            [past(MINE, "failed")],
            End(kind="reverted", reason="mine failed", by=state(REVERT, "complete")),
        ),
        (
            "the way back fails",
            state(REVERT, "failed"),
            [],
            End(kind="revert-failed", reason="why", by=state(REVERT, "failed")),
        ),
        ("another came", OTHER, [past(MINE, "superseded")], End(kind="superseded", by=OTHER)),
        ("nobody remembers it", OTHER, [], End(kind="superseded", by=OTHER)),
        ("another came after it", OTHER, [past(MINE, "complete")], End(kind="complete")),
        (
            "another came after it failed",
            OTHER,
            [past(MANUAL, "failed")],
            End(kind="failed", reason="mine failed"),
        ),
        (
            "another came after it was back",
            OTHER,
            [past(MINE, "failed"), past(REVERT, "complete")],
            End(kind="reverted", reason="mine failed", by=OTHER),
        ),
        (
            "another came after its way back failed",
            OTHER,
            [past(MINE, "failed"), past(REVERT, "failed")],
            End(kind="revert-failed", reason="back failed", by=OTHER),
        ),
        (
            "another came on its way back",
            OTHER,
            [past(MINE, "failed"), past(REVERT, "superseded")],
            End(kind="superseded", reason="mine failed", by=OTHER),
        ),
        ("the service is gone", None, [], End(kind="removed")),
    ],
)
def test_the_end_of_a_rollout_is_known_whatever_came_after_it(
    what: str, record: Rollout | None, history: list[Past], end: End | None
) -> None:
    assert ending_of("mine", record, {each.id: each for each in history}) == end, what


def test_only_a_revision_goes_back_by_itself_and_only_once() -> None:
    assert reverts(MINE)
    assert not reverts(MANUAL)
    assert not reverts(structs.replace(MINE, cause="configuration"))
    assert not reverts(structs.replace(MINE, previous=None))
    assert not reverts(REVERT)


def test_a_canary_is_one_until_it_is_promoted() -> None:
    canary = structs.replace(MINE, policy=Update(canary=1))
    assert is_canary(canary)
    assert not is_canary(structs.replace(canary, promoted=True))
    assert not is_canary(structs.replace(canary, revert_of="x"))
    assert not is_canary(MINE)


def test_each_machine_is_shown_with_its_step_and_why_it_waits() -> None:
    slot = Slot(machine="10.0.0.1", session="s", reason="rollout")
    activity = Activity(
        progress={
            "10.0.0.1": Progress(rollout="mine", step="verifying", reason="1 of 2 checks"),
            "10.0.0.2": Progress(rollout="mine"),
            "10.0.0.3": Progress(rollout="before", step="done"),
            "10.0.0.4": Progress(rollout="mine", step="pulling"),
            "10.0.0.5": Progress(rollout="mine", step="done"),
        },
        slots={"0000": slot},
    )
    alive = {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
    gone = "its daemon has no lease: it is stopped or cut off"
    seen = {(step.machine, step.step, step.reason) for step in sight_of(MINE, activity, alive=alive).machines}
    assert seen == {
        ("10.0.0.1", "verifying", "1 of 2 checks"),
        ("10.0.0.2", "waiting", "10.0.0.1 first"),
        ("10.0.0.3", "waiting", "10.0.0.1 first"),
        ("10.0.0.4", "pulling", gone),
        ("10.0.0.5", "done", ""),
    }
    scoped = structs.replace(MINE, machines=("10.0.0.2",))
    assert [step.machine for step in sight_of(scoped, activity, alive=alive).machines] == ["10.0.0.2"]


def test_a_load_balancer_that_has_not_confirmed_is_named() -> None:
    def waits(state: str, ack: Ack | None, *, asks: bool = True) -> tuple[str, ...]:
        endpoint = Endpoint(id="i", machine="10.0.0.1", session="s", ack=asks)
        activity = Activity(
            endpoints={"10.0.0.1:80": structs.replace(endpoint, state=state)},
            balancers={"lb": LoadBalancer()},
            acks={"i": {"lb": ack}} if ack else {"before": {"lb": Ack(step="drained")}},
        )
        return sight_of(MINE, activity, alive={"lb"}).waits

    silent = ("load balancer lb has not confirmed that 10.0.0.1:80 drains",)
    assert waits("draining", None) == silent
    assert waits("draining", Ack(step="routed")) == silent
    assert waits("draining", Ack(step="drained", sessions=3)) == (
        "load balancer lb has 3 sessions left with 10.0.0.1:80",
    )
    assert waits("draining", Ack(step="drained")) == ()
    assert waits("up", None) == ("load balancer lb does not route to 10.0.0.1:80 yet",)
    assert waits("up", Ack(step="routed")) == ()
    assert waits("up", None, asks=False) == (), "its machine does not wait"
