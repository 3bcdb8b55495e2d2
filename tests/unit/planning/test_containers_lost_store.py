"""What a machine does with its containers when the store knows less than they do."""

from typing import Any

from msgspec import structs

from orbitcontrol.model.configuration import Desired, EffectiveService, MachineIdentity
from orbitcontrol.model.containers import ObservedContainer
from orbitcontrol.model.service import Container, Service
from orbitcontrol.planning.container_specs import (
    WantedContainer,
    container_spec,
    own_containers,
    wanted_containers,
)
from orbitcontrol.planning.containers import Remove, Situation, lost_revisions, plan_containers

ADDRESS = "10.0.0.5"


def wanted(revision: str, serial: int) -> WantedContainer:
    container = Container(config={"Image": f"web:{revision}"})
    effective = EffectiveService(
        service=Service(name="web", container=container), revision=revision, serial=serial
    )
    desired = Desired(
        epoch="e",
        generation=1,
        machine=MachineIdentity(address=ADDRESS),
        services={"web": effective},
    )
    [one] = wanted_containers(desired)
    return one


def running(one: WantedContainer) -> ObservedContainer:
    labels = container_spec(one, port=0).body["Labels"]
    return ObservedContainer(
        id="c1", name="web", image=one.image, state="running", started_at="t0", labels=labels
    )


def situation(container: ObservedContainer, **fields: Any) -> Situation:
    return Situation(address=ADDRESS, observed=(container,), **fields)


def test_a_container_of_a_newer_revision_than_the_store_knows_stays_and_says_why() -> None:
    own = own_containers([running(wanted("R2", serial=7))], address=ADDRESS)
    older = wanted("R1", serial=0)
    [reason] = lost_revisions(own, {older.key: older}).values()
    assert "R2 stays" in reason
    assert "orbitctl recover" in reason


def test_a_container_of_an_older_revision_is_not_lost() -> None:
    own = own_containers([running(wanted("R2", serial=7))], address=ADDRESS)
    newer = wanted("R1", serial=8)
    assert lost_revisions(own, {newer.key: newer}) == {}


def test_a_container_that_nothing_wants_is_removed_only_from_a_trusted_store() -> None:
    one = running(wanted("R2", serial=7))
    labels = {**one.labels, "orbitcontrol.service": "gone"}
    stranger = structs.replace(one, labels=labels, state="exited")
    assert plan_containers([], situation(stranger, holding=True)).actions == ()
    [action] = plan_containers([], situation(stranger)).actions
    assert isinstance(action, Remove)
