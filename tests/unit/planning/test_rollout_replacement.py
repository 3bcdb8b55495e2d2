"""What the holder of a slot does with its containers, one step at a time."""

from __future__ import annotations

from msgspec import structs

from orbitcontrol.model.service import Update
from orbitcontrol.planning.container_specs import kept_name
from orbitcontrol.planning.rollout_plan import plan
from orbitcontrol.planning.rollout_steps import Fail, Rename, Revive, Wait
from orbitcontrol.planning.rollouts import Health, Memory
from support.rollouts import joined, local, of_rollout, own, rollout, shared, slot, up, wanted


def test_a_daemon_that_has_just_started_does_not_fail_a_container_that_it_has_not_judged() -> None:
    newest = rollout()
    new = own(of_rollout(wanted("R2"), newest)[0], "c2")
    kept = own(wanted("R1")[0], "c1", state="exited", kept=True)
    holding = shared(newest, slots={0: slot(rollout="r1", step="verifying")})
    told = "its checks have not passed yet"
    made = joined(local(own=(kept, new), ages={new.run_id: 900.0}), newest, "verifying", reason=told)
    assert isinstance(plan(made, holding, Memory(), now=1000).action, Wait)
    since = {new.run_id: Health(up=False, judged=False, since=1000)}
    made = structs.replace(made, health=since)
    assert isinstance(plan(made, holding, Memory(), now=1059).action, Wait)
    assert isinstance(plan(made, holding, Memory(), now=1060).action, Fail)


def test_a_kept_container_gets_its_name_back_from_the_one_that_serves_under_it() -> None:
    policy = Update(order="start-first")
    newest = rollout(policy=policy)
    target, before = wanted("R2", picks_port=True), wanted("R1", picks_port=True)
    kept = own(before[0], "c1", state="exited", kept=True)
    new = own(of_rollout(target, newest)[0], "c2")
    failed = joined(
        local(target=target, settled=before, update=policy, own=(kept, new), health=up(new)), newest, "failed"
    )
    holding = shared(newest, slots={0: slot(rollout="r1")})
    assert plan(failed, holding, Memory(), now=0).action == Rename(new, kept_name(new, "web"))
    aside = own(of_rollout(target, newest)[0], "c2", kept=True)
    failed = structs.replace(failed, own=(kept, aside))
    assert isinstance(plan(failed, holding, Memory(), now=0).action, Revive)
