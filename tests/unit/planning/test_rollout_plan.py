"""What a machine does next in a rollout: whole ways, one step at a time."""

from __future__ import annotations

from orbitcontrol.planning.rollout_plan import plan
from orbitcontrol.planning.rollout_steps import Rest, Settle
from orbitcontrol.planning.rollouts import Memory
from support.rollouts import endpoint, joined, local, own, rollout, shared, up, wanted


def test_what_is_settled_once_is_not_settled_again() -> None:
    complete = rollout(state="complete")
    new = own(wanted("R2")[0], "c2")
    made = joined(
        local(own=(new,), health=up(new), endpoints={new.run_id: endpoint("e2")}), complete, "done"
    )
    assert plan(made, shared(complete), Memory(), now=0).action == Settle()
    # what is remembered is the service, which does not speak of the rollout
    settled = joined(
        local(settled=wanted("R2"), own=(new,), health=up(new), endpoints=made.endpoints), complete, "done"
    )
    assert plan(settled, shared(complete), Memory(), now=0).action == Rest()
