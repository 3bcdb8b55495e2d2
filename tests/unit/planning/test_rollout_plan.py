"""What a machine does next in a rollout: whole ways, one step at a time."""

from __future__ import annotations

from msgspec import structs

from orbitcontrol.model.rollouts import Progress
from orbitcontrol.planning.rollout_plan import plan
from orbitcontrol.planning.rollout_steps import (
    Advance,
    Complete,
    Fail,
    Report,
    Rest,
    Settle,
    Stop,
    Take,
    Wait,
)
from orbitcontrol.planning.rollouts import Memory, Roster
from support.rollouts import (
    HERE,
    down,
    endpoint,
    joined,
    local,
    of_rollout,
    own,
    rollout,
    shared,
    slot,
    up,
    wanted,
)


def test_what_is_settled_once_is_not_settled_again() -> None:
    complete = rollout(state="complete")
    new = own(wanted("R2")[0], "c2")
    made = joined(local(own=(new,), health=up(new), endpoints={new.run_id: endpoint("e2")}), complete, "done")
    assert plan(made, shared(complete), Memory(), now=0).action == Settle()
    # what is remembered is the service, which does not speak of the rollout
    settled = joined(
        local(settled=wanted("R2"), own=(new,), health=up(new), endpoints=made.endpoints), complete, "done"
    )
    assert plan(settled, shared(complete), Memory(), now=0).action == Rest()


def test_a_container_that_serves_without_an_endpoint_is_published_before_it_is_stopped() -> None:
    # its session was lost, and load balancers go on with what they knew
    newest, old = rollout(), own(wanted("R1")[0], "c1")
    holding = shared(newest, slots={0: slot(rollout="r1")}, balancers=["lb"])
    made = joined(local(own=(old,), health=up(old)), newest, "starting")
    found = plan(made, holding, Memory(compared=0), now=0)
    assert isinstance(found.action, Advance)
    assert (found.action.step, found.action.reason) == (
        "draining",
        "its endpoint has to be published before it drains",
    )
    assert old.run_id not in found.directives


def test_a_container_that_was_not_judged_yet_is_not_stopped_either() -> None:
    newest, old = rollout(), own(wanted("R1")[0], "c1")
    holding = shared(newest, slots={0: slot(rollout="r1")})
    found = plan(joined(local(own=(old,)), newest, "starting"), holding, Memory(compared=0), now=0)
    assert isinstance(found.action, Advance)
    assert found.action.reason == "its checks have not said yet whether it serves"


def test_a_container_that_fails_or_was_never_published_is_stopped_at_once() -> None:
    newest, old = rollout(), own(wanted("R1")[0], "c1")
    holding = shared(newest, slots={0: slot(rollout="r1")}, balancers=["lb"])
    failing = joined(local(own=(old,), health=down(old)), newest, "starting")
    fresh = joined(local(own=(old,), health=up(old), fresh={old.run_id}), newest, "starting")
    for made in (failing, fresh):
        assert isinstance(plan(made, holding, Memory(compared=0), now=0).action, Stop)


def test_a_machine_that_nothing_wants_the_service_on_goes_on_although_the_rollout_has_failed() -> None:
    failed, old = rollout(state="failed"), own(wanted("R1")[0], "c1")
    unbound = local(
        bound=False, target=(), own=(old,), health=up(old), endpoints={old.run_id: endpoint("e1")}
    )
    taken = shared(failed, slots={0: slot(step="waiting")})
    assert plan(unbound, taken, Memory(), now=0).action == Advance("starting", "revision R1 becomes R2")


def test_a_new_container_is_judged_by_its_deadline_not_by_the_rule_for_those_that_keep_failing() -> None:
    newest, old = rollout(), own(wanted("R1")[0], "c1", state="exited", kept=True)
    new = own(of_rollout(wanted("R2"), newest)[0], "c2")
    holding = shared(newest, slots={0: slot(rollout="r1", step="verifying")})
    made = joined(
        local(own=(old, new), health=down(new), ages={new.run_id: 59.0}, condemned={new.run_id}),
        newest,
        "verifying",
        reason="status 503",
    )
    assert isinstance(plan(made, holding, Memory(compared=0), now=0).action, Wait)
    late = structs.replace(made, ages={new.run_id: 60.0})
    assert isinstance(plan(late, holding, Memory(compared=0), now=0).action, Fail)


def test_one_that_keeps_failing_after_the_rollout_is_started_anew() -> None:
    complete = rollout(state="complete")
    new = own(of_rollout(wanted("R2"), complete)[0], "c2")
    made = joined(local(own=(new,), health=down(new), condemned={new.run_id}), complete, "done")
    assert plan(made, shared(complete), Memory(), now=0).action == Take(0, "its checks keep failing")


def test_a_drained_machine_that_loses_the_service_too_says_so_once() -> None:
    made = local(bound=False, emptied=True, target=(), progress=Progress(step="done"))
    assert plan(made, shared(), Memory(), now=0).action == Report(None)
    assert plan(structs.replace(made, progress=None), shared(), Memory(), now=0).action == Rest()


def test_a_rollout_whose_only_machine_does_not_run_the_service_any_more_is_completed_by_another() -> None:
    newest = rollout(machines=("10.0.0.9",))
    new = own(wanted("R2")[0], "c2")
    made = joined(
        local(own=(new,), health=up(new), endpoints={new.run_id: endpoint("e2")}), rollout("r0"), "done"
    )
    assert plan(made, shared(newest), Memory(), now=0).action == Complete()
    still = Roster(progress={HERE: Progress(), "10.0.0.9": Progress()})
    assert plan(made, shared(newest, roster=still), Memory(), now=0).action != Complete()


def test_a_drained_machine_completes_what_no_machine_is_left_for() -> None:
    newest = rollout()
    drained = local(emptied=True, target=(), progress=Progress(step="done"))
    alone = Roster(progress={HERE: Progress()}, emptied={HERE})
    assert plan(drained, shared(newest, roster=alone), Memory(), now=0).action == Complete()
    other = Roster(progress={HERE: Progress(), "10.0.0.9": Progress()}, emptied={HERE})
    assert plan(drained, shared(newest, roster=other), Memory(), now=0).action == Rest()


def test_a_rollout_that_was_not_read_yet_is_waited_for_without_a_word() -> None:
    newest, old = rollout(), own(wanted("R1")[0], "c1")
    made = structs.replace(joined(local(own=(old,), health=up(old)), newest), known=39)
    assert isinstance(plan(made, shared(newest), Memory(), now=0).action, Wait)


def test_a_container_that_has_not_proven_itself_stays_unpublished_while_a_newer_rollout_is_read() -> None:
    newest, new = rollout(id="r2"), own(wanted("R2")[0], "c2")
    made = joined(local(own=(new,), health=up(new), fresh={new.run_id}), rollout(), "verifying")
    unread = structs.replace(made, known=0)
    holding = shared(newest, slots={0: slot(rollout="r1", step="verifying")})
    for seen in (unread, made):  # before it is read, and before this machine says that it takes part
        found = plan(seen, holding, Memory(), now=0)
        assert isinstance(found.action, Wait | Report)
        assert found.directives[new.run_id] == "hold"
