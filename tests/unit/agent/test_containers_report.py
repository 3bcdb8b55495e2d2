from __future__ import annotations

from typing import Any

from msgspec import structs

from orbitcontrol.agent.containers_report import Sight, instance_reports, problems
from orbitcontrol.model.configuration import Desired, EffectiveService, MachineIdentity
from orbitcontrol.model.containers import ObservedContainer
from orbitcontrol.model.service import Container, Service
from orbitcontrol.planning.backoff import Backoff
from orbitcontrol.planning.container_specs import (
    InstanceKey,
    OwnContainer,
    WantedContainer,
    wanted_containers,
)
from orbitcontrol.planning.containers import ActionKey, ContainerPlan
from orbitcontrol.planning.strangers import StrangerKey

KEY = InstanceKey("web")


def sight(**fields: Any) -> Sight:
    """A look at a machine on which nothing is wanted and nothing runs, but for what is given."""
    nothing = Sight(
        desired=Desired(epoch="e", generation=4, machine=MachineIdentity(address="10.0.0.5")),
        wanted={},
        alive={},
        plan=ContainerPlan(),
        busy={},
        images={},
        stops={},
        ended=(),
        verdicts={},
    )
    return structs.replace(nothing, **fields)


def wanted(image: str) -> WantedContainer:
    service = Service(name="web", container=Container(config={"Image": image}))
    machine = MachineIdentity(address="10.0.0.5")
    services = {"web": EffectiveService(service=service)}
    [found] = wanted_containers(Desired(epoch="e", generation=4, machine=machine, services=services))
    return found


def own(config_hash: str) -> OwnContainer:
    return OwnContainer(
        container=ObservedContainer(id="c", name="web", image="web:1", state="running"),
        key=KEY,
        config_hash=config_hash,
        revision="1",
        revision_source="image",
        serial=0,
        port=0,
    )


def test_a_report_says_whether_the_container_is_the_one_that_its_generation_wants() -> None:
    def reported(config_hash: str | None, **fields: Any) -> tuple[int, bool]:
        alive = {} if config_hash is None else {KEY: own(config_hash)}
        target = wanted("web:1")
        desired = Desired(
            epoch="e",
            generation=4,
            machine=MachineIdentity(address="10.0.0.5"),
            services={"web": target.effective},
        )
        [report] = instance_reports(sight(desired=desired, wanted={KEY: target}, alive=alive, **fields))
        return report.generation, report.outdated

    same, other = wanted("web:1").config_hash, wanted("web:2").config_hash
    assert reported(same) == (4, False)
    assert reported(other) == (4, True)
    assert reported(None) == (4, False), "what starts is the wanted one"


def test_what_could_not_be_removed_is_reported_with_its_service_or_as_the_container_that_it_is() -> None:
    stops: dict[ActionKey, Backoff] = {
        StrangerKey("left-over", "c1"): Backoff(reason="device busy"),
        InstanceKey("web", 2): Backoff(reason="its endpoint was not withdrawn"),
    }
    assert problems(sight(stops=stops)) == {
        "container left-over": "device busy",
        "service web": "its endpoint was not withdrawn",
    }
