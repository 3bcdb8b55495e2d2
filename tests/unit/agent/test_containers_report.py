from __future__ import annotations

from orbitcontrol.agent.containers_report import Sight, problems
from orbitcontrol.model.configuration import Desired, MachineIdentity
from orbitcontrol.planning.backoff import Backoff
from orbitcontrol.planning.container_specs import InstanceKey
from orbitcontrol.planning.containers import ActionKey, ContainerPlan
from orbitcontrol.planning.strangers import StrangerKey


def test_what_could_not_be_removed_is_reported_with_its_service_or_as_the_container_that_it_is() -> None:
    stops: dict[ActionKey, Backoff] = {
        StrangerKey("left-over", "c1"): Backoff(reason="device busy"),
        InstanceKey("web", 2): Backoff(reason="its endpoint was not withdrawn"),
    }
    sight = Sight(
        desired=Desired(epoch="e", generation=1, machine=MachineIdentity(address="10.0.0.5")),
        wanted={},
        alive={},
        plan=ContainerPlan(),
        busy={},
        images={},
        stops=stops,
        ended=(),
        verdicts={},
    )
    assert problems(sight) == {
        "container left-over": "device busy",
        "service web": "its endpoint was not withdrawn",
    }
