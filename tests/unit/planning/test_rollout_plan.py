"""What a machine does next in a rollout: whole ways, one step at a time."""

from __future__ import annotations

from collections import Counter

from msgspec import structs

from orbitcontrol.model.durations import Duration
from orbitcontrol.model.rollouts import Progress
from orbitcontrol.model.service import Update
from orbitcontrol.planning.rollout_plan import plan
from orbitcontrol.planning.rollout_steps import (
    Advance,
    Complete,
    Evict,
    Expel,
    Fail,
    Release,
    Report,
    Rest,
    Settle,
    Stop,
    Take,
    Wait,
)
from orbitcontrol.planning.rollout_turns import PEERS, peers_of
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
    assert plan(unbound, taken, Memory(), now=0).action == Advance("draining", "its endpoint is being marked")


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


def test_stagger_keeps_the_slot_while_another_machine_is_to_follow() -> None:
    newest = rollout(policy=Update(stagger=Duration(60)))
    new = own(wanted("R2")[0], "c2")
    made = joined(
        local(own=(new,), health=up(new), endpoints={new.run_id: endpoint("e2")}), newest, "verifying"
    )
    both = Roster(progress={HERE: Progress(rollout="r1", step="verifying"), "10.0.0.2": Progress()})
    holding = shared(newest, slots={0: slot(rollout="r1", step="verifying")}, roster=both)
    waits = plan(made, holding, Memory(compared=0, arrived=10), now=69)
    assert waits.arrived
    assert isinstance(waits.action, Advance)  # tells why it waits
    assert "Stagger" in waits.action.reason
    assert isinstance(plan(made, holding, Memory(compared=0, arrived=10), now=70).action, Release)
    alone = structs.replace(holding, roster=Roster(progress={HERE: Progress()}))
    assert isinstance(plan(made, alone, Memory(compared=0, arrived=10), now=11).action, Release)


def test_nothing_is_settled_while_the_newest_word_on_the_rollout_was_not_read() -> None:
    newest = rollout(state="paused")
    new = own(wanted("R2")[0], "c2")
    made = joined(local(own=(new,), health=up(new), endpoints={new.run_id: endpoint("e2")}), newest, "done")
    behind = structs.replace(made, known=39)
    assert plan(behind, shared(newest), Memory(), now=0).action == Rest()


def test_a_machine_that_is_proven_gone_loses_its_slot_and_its_place_on_the_roster() -> None:
    newest, old = rollout(), own(wanted("R1")[0], "c1")
    made = joined(local(own=(old,), health=up(old), endpoints={old.run_id: endpoint("e1")}), newest)
    dead = "10.0.0.9"
    progress = {HERE: Progress(rollout="r1"), dead: Progress(rollout="r1")}
    lost = shared(newest, roster=Roster(progress=progress, lost={dead}))
    waits = plan(made, lost, Memory(), now=0).action
    assert isinstance(waits, Report)
    assert waits.progress is not None
    assert dead in waits.progress.reason
    gone = Roster(progress=progress, lost={dead}, gone={dead})
    assert plan(made, structs.replace(lost, roster=gone), Memory(), now=0).action == Expel(dead)
    held = shared(newest, roster=gone, slots={0: slot(dead)})
    assert plan(made, held, Memory(), now=0).action == Evict(0)


def test_a_machine_that_was_emptied_and_switched_off_holds_up_nobody() -> None:
    newest, old = rollout(), own(wanted("R1")[0], "c1")
    made = joined(local(own=(old,), health=up(old), endpoints={old.run_id: endpoint("e1")}), newest)
    off = "10.0.0.9"
    roster = Roster(progress={HERE: Progress(rollout="r1"), off: Progress()}, lost={off}, emptied={off})
    assert isinstance(plan(made, shared(newest, roster=roster), Memory(), now=0).action, Take)


def test_each_machine_is_known_to_some_others_however_many_there_are() -> None:
    machines = [f"10.0.{number // 250}.{number % 250}" for number in range(1000)]
    known = Counter(peer for machine in machines for peer in peers_of(machine, machines))
    assert set(known.values()) == {PEERS}
    assert peers_of("a", ["a", "b"]) == ("b",)


def test_other_words_for_the_same_step_wait_a_moment_for_what_they_tell_to_be_over() -> None:
    newest, old = rollout(), own(wanted("R1")[0], "c1")
    holding = shared(newest, slots={0: slot(rollout="r1", step="draining")}, balancers=["lb"])
    marked = endpoint("e1", state="draining", ack=True)
    made = joined(
        local(own=(old,), health=up(old), endpoints={old.run_id: marked}),
        newest,
        "draining",
        reason="its endpoint is being marked",
    )
    memory = Memory(compared=10.0, marked={"e1": 10.0})
    waits = plan(made, holding, memory, now=10.1).action
    assert isinstance(waits, Wait)
    assert waits.until is not None
    assert 10.1 < waits.until < 11
    told = plan(made, holding, memory, now=waits.until).action
    assert isinstance(told, Advance)
    assert "lb" in told.reason


def test_a_container_that_has_not_proven_itself_stays_unpublished_while_a_newer_rollout_is_read() -> None:
    newest, new = rollout(id="r2"), own(wanted("R2")[0], "c2")
    made = joined(local(own=(new,), health=up(new), fresh={new.run_id}), rollout(), "verifying")
    unread = structs.replace(made, known=0)
    holding = shared(newest, slots={0: slot(rollout="r1", step="verifying")})
    for seen in (unread, made):  # before it is read, and before this machine says that it takes part
        found = plan(seen, holding, Memory(), now=0)
        assert isinstance(found.action, Wait | Report)
        assert found.directives[new.run_id] == "hold"


def test_what_was_begun_and_not_finished_goes_back_when_the_rollout_has_failed_elsewhere() -> None:
    """With start-first, a drain that nobody confirmed leaves the old and the new one side by side."""
    failed = rollout(state="failed")
    old, new = own(wanted("R1")[0], "c1", kept=True), own(wanted("R2")[0], "c2")
    both = local(
        own=(old, new),
        health=up(old, new),
        endpoints={old.run_id: endpoint("e1"), new.run_id: endpoint("e2")},
    )
    made = joined(both, failed)
    told = plan(made, shared(failed), Memory(), now=0).action
    assert isinstance(told, Report)
    assert told.progress is not None
    assert told.progress.step == "failed"
    after = structs.replace(made, progress=told.progress)
    assert isinstance(plan(after, shared(failed), Memory(), now=0).action, Take)
    holding = shared(failed, slots={0: slot(rollout="r1", step="draining")})
    draining = plan(after, holding, Memory(compared=0), now=0)
    assert draining.directives[new.run_id] == "drain"
    assert draining.directives[old.run_id] == "expose"
