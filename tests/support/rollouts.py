"""Values for tests of the planning of rollouts: a service, its containers, one machine, one reading."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from orbitcontrol.codec.keys import Keys
from orbitcontrol.model.configuration import Desired, EffectiveService, MachineIdentity
from orbitcontrol.model.containers import ContainerState, ObservedContainer
from orbitcontrol.model.rollouts import Aim, LoadBalancer, Progress, Rollout, Slot
from orbitcontrol.model.runs import RunId
from orbitcontrol.model.service import Container, Service, Update
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.container_specs import (
    OwnContainer,
    WantedContainer,
    kept_name,
    orbit_labels,
    own_container,
    wanted_containers,
)
from orbitcontrol.planning.rollout_aims import digest_of
from orbitcontrol.planning.rollouts import Health, Held, Local, Roster, Shared

KEYS = Keys()
HERE = "10.0.0.1"
PORT = 8080


def wanted(revision: str, *, instances: int = 1, picks_port: bool = False) -> tuple[WantedContainer, ...]:
    """The containers of the service ``web`` with a revision, on the machine ``HERE``."""
    service = Service(
        name="web",
        endpoint_port=0 if picks_port else PORT,
        container_port=80,
        instances=instances,
        container=Container(config={"Image": f"web:{revision}"}),
    )
    effective = EffectiveService(service=service, revision=revision, revision_source="service", serial=1)
    machine = MachineIdentity(address=HERE)
    return wanted_containers(Desired(epoch="e", generation=1, machine=machine, services={"web": effective}))


def of_rollout(
    target: tuple[WantedContainer, ...], rollout: Rollout | None, *, relaunch: bool = False
) -> tuple[WantedContainer, ...]:
    """The containers as they are wanted while the rollout is the newest."""
    name = "" if rollout is None else rollout.id
    return tuple(structs.replace(one, rollout=name, relaunch=name if relaunch else "") for one in target)


def own(
    one: WantedContainer, id: str, *, state: ContainerState = "running", kept: bool = False, port: int = PORT
) -> OwnContainer:
    """A container that was made from what was wanted once; ids tell which one started first."""
    observed = ObservedContainer(
        id=id, name=one.name, image=one.image, state=state, started_at=id, labels=orbit_labels(one, port)
    )
    made = own_container(observed, address=HERE)
    assert made is not None
    if not kept:
        return made
    return structs.replace(made, container=structs.replace(observed, name=kept_name(made, one.name)))


def endpoint(id: str, **fields: Any) -> Endpoint:
    """An endpoint of this machine."""
    return Endpoint(id=id, machine=HERE, session="s1", **fields)


def up(*owns: OwnContainer, since: float = 0.0) -> dict[RunId, Health]:
    """These are healthy."""
    return {one.run_id: Health(up=True, judged=True, since=since) for one in owns}


def down(*owns: OwnContainer, since: float = 0.0) -> dict[RunId, Health]:
    """These fail their checks."""
    return {one.run_id: Health(up=False, judged=True, since=since, reason="status 503") for one in owns}


def rollout(id: str = "r1", **fields: Any) -> Rollout:
    """A rollout of revision R2 after R1, for all machines."""
    fields = {
        "cause": "revision",
        "target": Aim(revision="R2", serial=2, generation=1),
        "previous": Aim(revision="R1", serial=1, generation=1),
        "policy": Update(),
        **fields,
    }
    return Rollout(id=id, **fields)


def local(**fields: Any) -> Local:
    """A machine that knows the newest configuration."""
    fields = {
        "address": HERE,
        "session": "s1",
        "service": "web",
        "target": wanted("R2"),
        "settled": wanted("R1"),
        "generation": 1,
        "known": 100,
        **fields,
    }
    return Local(**fields)


def joined(made: Local, newest: Rollout, step: Any = "waiting", **fields: Any) -> Local:
    """The machine once it takes part in a rollout, its target marked with it."""
    target = of_rollout(made.target, newest, relaunch=newest.cause == "relaunch")
    progress = Progress(rollout=newest.id, step=step, target=digest_of(target), **fields)
    return structs.replace(made, target=target, progress=progress)


def slot(machine: str = HERE, *, revision: int = 50, **fields: Any) -> Held:
    """A slot that a machine holds."""
    fields = {"session": "s1", "reason": "revision R1 becomes R2", "step": "starting", **fields}
    return Held(Slot(machine=machine, **fields), revision)


def shared(newest: Rollout | None = None, **fields: Any) -> Shared:
    """A reading; ``roster`` without more has this machine alone, ``balancers`` are named."""
    balancers = {address: LoadBalancer() for address in fields.pop("balancers", ())}
    roster = fields.pop("roster", None) or Roster(progress={HERE: Progress()})
    return Shared(
        revision=100,
        rollout=newest,
        rollout_revision=0 if newest is None else 40,
        balancers=balancers,
        roster=roster,
        **fields,
    )
