"""Whole ways through a rollout, each step planned from what the one before has left.

A driver carries the steps out on values, as a machine would that nothing goes wrong on: what it writes is
written, load balancers confirm at once, containers are healthy unless their revision is named ``bad``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from orbitcontrol.model.durations import Duration
from orbitcontrol.model.rollouts import Ack, Progress, Rollout, Slot
from orbitcontrol.model.service import Update
from orbitcontrol.planning.container_specs import OwnContainer, WantedContainer, kept_name
from orbitcontrol.planning.rollout_plan import plan
from orbitcontrol.planning.rollout_steps import (
    Action,
    Advance,
    Complete,
    Evict,
    Fail,
    GiveUp,
    Pause,
    Plan,
    Release,
    Remove,
    Rename,
    Report,
    Rest,
    Revive,
    Settle,
    Start,
    Stop,
    Take,
    Wait,
)
from orbitcontrol.planning.rollouts import Held, Local, Memory, Roster
from support.rollouts import HERE, down, endpoint, joined, local, own, rollout, shared, slot, up, wanted

OTHER = "10.0.0.2"


class Driver:
    """One machine, and what it shares with itself. ``confirms`` is false when load balancers are silent."""

    def __init__(self, made: Local, newest: Rollout | None, *, roster: Roster | None = None) -> None:
        self.local = made
        self.shared = shared(newest, balancers=["lb"], roster=roster)
        self.now = 1000.0
        self.memory = Memory(joined=self.now)
        self.confirms = True
        self.told: list[str] = []
        self._ids = 10

    def go(self, *, until: type[Action] = Rest, at_most: int = 60) -> list[str]:
        """Takes steps until one of this kind is planned; the names of those that mattered."""
        for _ in range(at_most):
            made = plan(self.local, self.shared, self.memory, now=self.now)
            if isinstance(made.action, until):
                return self.told
            self._carry_out(made)
        raise AssertionError(f"no end: {self.told}")

    def note(self, what: str) -> None:
        if not self.told or self.told[-1] != what:
            self.told.append(what)

    def _carry_out(self, made: Plan) -> None:
        self._direct(made)
        local = self.local
        match made.action:
            case Take(number=number, reason=reason):
                self.note("take")
                rollout_id = "" if self.shared.rollout is None else self.shared.rollout.id
                taken = Slot(machine=HERE, session="s1", reason=reason, rollout=rollout_id)
                self._share(slots={**self.shared.slots, number: Held(taken, 60)})
            case Advance(step=step, reason=reason):
                number, held = self._mine()
                self._share(slots={number: Held(structs.replace(held.slot, step=step), held.revision + 1)})
                self.memory = structs.replace(self.memory, compared=self.now)
                if local.progress is not None and local.progress.step not in ("done", "failed"):
                    self._progress(structs.replace(local.progress, step=step, reason=reason))
            case Wait(until=until):
                self.now = until if until is not None and until > self.now else self.now + 1
            case Settle():
                self.note("settle")
                self.local = structs.replace(local, settled=local.target)
            case GiveUp():
                self.note("give up")
                self.memory = structs.replace(self.memory, retry_at=self.now + 30, retries=1)
            case Report() | Release() | Fail() | Complete():
                self._tell(made.action)
            case action:
                self._in_docker(action)

    def _tell(self, action: Report | Release | Fail | Complete) -> None:
        newest = self.shared.rollout
        match action:
            case Report(progress=progress):
                self._progress(progress)
            case Release(progress=progress):
                self.note("release")
                self._share(slots={})
                self._progress(progress)
            case Fail():
                self.note("fail")
                assert self.local.progress is not None
                assert newest is not None
                self._progress(structs.replace(self.local.progress, step="failed"))
                self._share(rollout=structs.replace(newest, state="failed"))
            case Complete():
                self.note("complete")
                assert newest is not None
                self._share(rollout=structs.replace(newest, state="complete"))

    def _in_docker(self, action: Action) -> None:
        match action:
            case Stop(own=old, keep=keep):
                self.note(f"stop {old.revision}")
                kept = kept_name(old, old.container.name) if keep else old.container.name
                self._replace(old, None if not keep else self._changed(old, state="exited", name=kept))
            case Start(wanted=one, beside=beside):
                self.note(f"start {one.effective.revision}")
                for old in beside:
                    self._replace(old, self._changed(old, name=kept_name(old, one.name)))
                self._ids += 1
                port = one.port or 30000 + self._ids
                self._add(own(one, f"c{self._ids}", port=port))
            case Revive(own=old, wanted=one, ended=ended):
                self.note(f"revive {old.revision}")
                gone = {each.id for each in ended}
                rest = tuple(each for each in self.local.own if each.container.id not in gone)
                self.local = structs.replace(self.local, own=rest)
                self._replace(old, None)
                self._ids += 1
                self._add(self._changed(old, state="running", name=one.name, started_at=f"c{self._ids}"))
            case Remove(own=old):
                self.note(f"remove {old.revision}")
                self._replace(old, None)
            case Rename(own=old, name=name):
                self._replace(old, self._changed(old, name=name))
            case _:
                raise AssertionError(f"not carried out: {action}")

    def _direct(self, made: Plan) -> None:
        """Endpoints become what the plan says, and load balancers confirm it."""
        endpoints = {}
        for one in self.local.own:
            health, run = self.local.health.get(one.run_id), one.run_id
            directive = made.directives.get(run)
            before = self.local.endpoints.get(run)
            if not one.alive or health is None or not health.up or (directive == "hold" and before is None):
                continue
            state = "draining" if directive == "drain" and before is not None else "up"
            name = f"e-{run.started_at}-{state}"
            endpoints[run] = endpoint(name, state=state, ack=directive in ("drain", "expose"))
            if state == "draining":
                self.note(f"drain {one.revision}")
                since = self.memory.marked.get(name, self.now)
                self.memory = structs.replace(self.memory, marked={name: since})
        step = {each.id: "drained" if each.state == "draining" else "routed" for each in endpoints.values()}
        acks = {(each, "lb"): Ack(step=step[each]) for each in step} if self.confirms else {}  # type: ignore[arg-type]
        self._share(acks=acks)
        self.local = structs.replace(self.local, endpoints=endpoints)

    def _add(self, made: OwnContainer) -> None:
        health = down(made) if made.revision == "bad" else up(made, since=self.now)
        self.local = structs.replace(
            self.local,
            own=(*self.local.own, made),
            health={**self.local.health, **health},
            ages={**self.local.ages, made.run_id: 61.0},
        )

    def _replace(self, old: OwnContainer, new: OwnContainer | None) -> None:
        rest = tuple(each for each in self.local.own if each.container.id != old.container.id)
        self.local = structs.replace(self.local, own=rest if new is None else (*rest, new))

    def _changed(self, old: OwnContainer, **fields: object) -> OwnContainer:
        return structs.replace(old, container=structs.replace(old.container, **fields))

    def _progress(self, progress: Progress | None) -> None:
        self.local = structs.replace(self.local, progress=progress)
        roster = self.shared.roster
        others = {address: each for address, each in roster.progress.items() if address != HERE}
        mine = {} if progress is None else {HERE: progress}
        self._share(roster=structs.replace(roster, progress={**others, **mine}))

    def _mine(self) -> tuple[int, Held]:
        mine = self.shared.held_by(HERE)
        assert mine is not None
        return mine

    def _share(self, **fields: object) -> None:
        self.shared = structs.replace(self.shared, **fields)


def serving(*ones: WantedContainer, **fields: object) -> Local:
    """A machine on which these run, healthy and published; what they are is what was completed last."""
    owns = tuple(own(one, f"c{n}", port=one.port or 30000 + n) for n, one in enumerate(ones, 1))
    endpoints = {one.run_id: endpoint(f"e{one.container.id}") for one in owns}
    return local(own=owns, health=up(*owns), endpoints=endpoints, settled=ones, **fields)


def in_rollout(policy: Update | None = None, **fields: Any) -> Rollout:
    return rollout(policy=policy or Update(), **fields)


def test_stop_first_the_old_container_drains_stops_and_is_kept_until_the_new_one_is_routed_to() -> None:
    newest = in_rollout()
    driver = Driver(joined(serving(*wanted("R1")), newest), newest)
    assert driver.go() == [
        "take",
        "drain R1",
        "stop R1",
        "start R2",
        "remove R1",
        "release",
        "complete",
        "settle",
    ]


def test_start_first_the_new_container_is_routed_to_before_the_old_one_drains() -> None:
    newest = in_rollout(Update(order="start-first"))
    made = serving(*wanted("R1", picks_port=True), target=wanted("R2", picks_port=True))
    driver = Driver(joined(made, newest), newest)
    assert driver.go() == ["take", "start R2", "drain R1", "stop R1", "release", "complete", "settle"]


def test_several_instances_are_replaced_one_after_the_other_in_one_slot() -> None:
    newest = in_rollout()
    target = wanted("R2", instances=2, picks_port=True)
    made = serving(*wanted("R1", instances=2, picks_port=True), target=target)
    told = Driver(joined(made, newest), newest).go()
    one = ["drain R1", "stop R1", "start R2", "remove R1"]
    assert told == ["take", *one, *one, "release", "complete", "settle"]


def test_a_revision_that_never_becomes_healthy_fails_and_the_old_container_serves_again() -> None:
    newest = in_rollout()
    driver = Driver(joined(serving(*wanted("R1"), target=wanted("bad")), newest), newest)
    told = driver.go()
    assert told == [
        "take",
        "drain R1",
        "stop R1",
        "start bad",
        "fail",
        "stop bad",
        "revive R1",
        "release",
    ]
    assert driver.local.progress is not None
    assert driver.local.progress.step == "failed"
    assert [one.revision for one in driver.local.own] == ["R1"]


def test_the_way_back_needs_no_proof_and_completes() -> None:
    failed = in_rollout()
    driver = Driver(joined(serving(*wanted("R1"), target=wanted("bad")), failed), failed)
    driver.go(until=Revive)
    back = in_rollout(id="r2", revert_of="r1")
    driver.shared = structs.replace(driver.shared, rollout=back)
    driver.local = structs.replace(
        driver.local, target=joined(local(target=wanted("R1")), back).target, failures={}
    )
    assert driver.go()[-3:] == ["revive R1", "release", "complete"]
    assert [one.revision for one in driver.local.own] == ["R1"]


def test_a_drain_that_nobody_confirms_is_taken_back_and_tried_again_later() -> None:
    newest = in_rollout()
    driver = Driver(joined(serving(*wanted("R1")), newest), newest)
    driver.confirms = False
    driver.go(until=Release)
    assert driver.told == ["take", "drain R1", "give up"]
    assert not any(each.state == "draining" for each in driver.local.endpoints.values())
    driver.confirms = True
    assert driver.go()[-2:] == ["complete", "settle"]


def test_a_failure_before_anything_was_stopped_leaves_the_old_container_alone() -> None:
    newest = in_rollout()
    images = {"web:R2": "manifest unknown"}
    driver = Driver(joined(serving(*wanted("R1"), images=images), newest), newest)
    target = driver.local.target[0].image
    driver.local = structs.replace(driver.local, images={target: "manifest unknown"})
    assert driver.go() == ["fail"]
    assert [one.revision for one in driver.local.own] == ["R1"]


def test_a_rollout_of_another_machine_changes_nothing_here() -> None:
    newest = in_rollout(machines=(OTHER,))
    both = Roster(progress={HERE: Progress(), OTHER: Progress()})
    made = serving(*wanted("R1"), target=wanted("R1"))
    made = structs.replace(joined(made, rollout("r0"), "done"), target=made.target)
    driver = Driver(made, newest, roster=both)
    assert driver.go() == []


def test_a_canary_pauses_for_people_and_goes_on_when_they_say_so() -> None:
    newest = in_rollout(Update(canary=1))
    other = joined(local(), newest).progress
    assert other is not None
    both = Roster(progress={HERE: Progress(), OTHER: other})
    driver = Driver(joined(serving(*wanted("R1")), newest), newest, roster=both)
    driver.go(until=Pause)
    assert driver.told[-1] == "release"
    second = structs.replace(other, step="done", replaced=True)
    waiting = Driver(joined(serving(*wanted("R1")), newest), newest)
    waiting.shared = structs.replace(
        waiting.shared, roster=Roster(progress={HERE: Progress(), OTHER: second})
    )
    waiting.go(until=Pause)
    assert waiting.told == []
    promoted = structs.replace(newest, promoted=True)
    waiting.shared = structs.replace(waiting.shared, rollout=promoted)
    assert waiting.go(until=Complete)[0] == "take"


def test_nobody_begins_in_a_paused_rollout_and_who_has_begun_goes_on() -> None:
    paused = in_rollout(state="paused")
    driver = Driver(joined(serving(*wanted("R1")), paused), paused)
    driver.go(until=Wait)
    assert driver.told == []
    running = structs.replace(paused, state="running")
    driver = Driver(joined(serving(*wanted("R1")), running), running)
    driver.go(until=Stop)
    driver.shared = structs.replace(driver.shared, rollout=paused)
    driver.go()
    assert "start R2" in driver.told
    assert driver.told[-1] == "release"


def test_another_revision_in_the_middle_is_taken_up_inside_the_same_slot() -> None:
    first = in_rollout()
    driver = Driver(joined(serving(*wanted("R1")), first), first)
    driver.go(until=Start)
    second = in_rollout(id="r2")
    driver.shared = structs.replace(driver.shared, rollout=second)
    target = joined(local(target=wanted("R3")), second).target
    driver.local = structs.replace(driver.local, target=target)
    told = driver.go()
    assert "start R2" not in told
    assert told[told.index("stop R1") :] == [
        "stop R1",
        "start R3",
        "remove R1",
        "release",
        "complete",
        "settle",
    ]


def test_a_relaunch_replaces_a_container_by_one_of_the_same_revision() -> None:
    newest = in_rollout(cause="relaunch")
    driver = Driver(joined(serving(*wanted("R1"), target=wanted("R1")), newest), newest)
    assert driver.go()[:4] == ["take", "drain R1", "stop R1", "start R1"]
    assert [one.rollout for one in driver.local.own] == ["r1"]


def test_what_nothing_wants_here_drains_and_is_removed_in_a_slot() -> None:
    driver = Driver(serving(*wanted("R1"), bound=False, target=(), progress=Progress(step="done")), None)
    assert driver.go() == ["take", "drain R1", "stop R1", "release"]
    assert (driver.local.own, driver.local.progress) == ((), None)


def test_a_machine_that_is_to_be_drained_stops_what_it_runs_and_says_when_it_has() -> None:
    driver = Driver(serving(*wanted("R1"), emptied=True, target=()), None)
    driver.go()
    assert driver.told == ["take", "drain R1", "stop R1", "release"]
    assert driver.local.progress == Progress(step="done", reason="the machine is drained")


def test_a_machine_that_comes_late_replaces_its_container_although_the_rollout_is_complete() -> None:
    complete = in_rollout(state="complete")
    driver = Driver(serving(*wanted("R1"), target=joined(local(), complete).target), complete)
    told = driver.go()
    assert told[0] == "take"
    assert told[-1] == "settle"
    assert [one.revision for one in driver.local.own] == ["R2"]


def test_a_machine_that_is_new_in_a_rollout_starts_what_is_wanted_and_needs_no_slot() -> None:
    newest = in_rollout()
    made = joined(local(settled=None), newest)
    driver = Driver(structs.replace(made, progress=None), newest)
    driver.go(until=Wait)
    assert plan(driver.local, driver.shared, driver.memory, now=driver.now).aim == made.target
    driver._add(own(made.target[0], "c1"))
    assert driver.go() == ["complete", "settle"]


def test_a_slot_that_was_taken_away_is_taken_again_before_anything_stops() -> None:
    newest = in_rollout()
    driver = Driver(joined(serving(*wanted("R1")), newest), newest)
    driver.go(until=Stop)
    driver.shared = structs.replace(driver.shared, slots={0: slot(OTHER)})
    made = plan(driver.local, driver.shared, driver.memory, now=driver.now)
    assert isinstance(made.action, Report | Wait)
    assert not made.directives
    driver.shared = structs.replace(driver.shared, slots={})
    driver.told.clear()
    assert driver.go()[:3] == ["take", "drain R1", "stop R1"]


def test_the_slot_of_a_machine_that_is_proven_gone_is_taken_away_first() -> None:
    newest = in_rollout()
    driver = Driver(joined(serving(*wanted("R1")), newest), newest)
    gone = Roster(progress={HERE: Progress(), OTHER: Progress()}, lost={OTHER}, gone={OTHER})
    driver.shared = structs.replace(driver.shared, slots={0: slot(OTHER)}, roster=gone)
    assert plan(driver.local, driver.shared, driver.memory, now=0).action == Evict(0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda roster: structs.replace(roster, lost={OTHER}),
        lambda roster: structs.replace(roster, lacking={OTHER}),
    ],
    ids=["lost", "lacking"],
)
def test_nobody_goes_out_while_as_many_others_as_may_be_are_out(spoil: Callable[[Roster], Roster]) -> None:
    newest = in_rollout()
    both = Roster(progress={HERE: Progress(), OTHER: Progress()})
    driver = Driver(joined(serving(*wanted("R1")), newest), newest, roster=spoil(both))
    driver.go(until=Wait)
    assert driver.told == []
    itself = structs.replace(spoil(both), lacking={HERE, OTHER})
    driver.shared = structs.replace(driver.shared, roster=itself)
    driver.go(until=Take)


def test_a_stop_compares_the_slot_again_when_that_was_long_ago() -> None:
    newest = in_rollout(Update(drain_timeout=Duration(30)))
    driver = Driver(joined(serving(*wanted("R1")), newest), newest)
    driver.go(until=Stop)
    driver.now = driver.memory.compared + driver.local.ttl
    made = plan(driver.local, driver.shared, driver.memory, now=driver.now)
    assert isinstance(made.action, Advance)
