"""The one service of a simulated world: its configuration, and what machines make of it."""

from __future__ import annotations

from functools import cache
from typing import Literal

from msgspec import Struct, structs

from orbitcontrol.codec.values import decode
from orbitcontrol.model.configuration import Desired, EffectiveService, MachineIdentity
from orbitcontrol.model.rollouts import MachineDrain, Rollout
from orbitcontrol.model.service import Container, Relaunch, Service, Update
from orbitcontrol.model.state import Deployment
from orbitcontrol.model.stored import Range, Reading
from orbitcontrol.planning.container_specs import WantedContainer, wanted_containers
from simulation.daemon import KEYS

SERVICE = "web"
META = KEYS.meta


class Tree(Struct, frozen=True, kw_only=True):
    """What people import. ``variant`` is anything of the container that is not its revision."""

    generation: int = 1
    variant: int = 1
    instances: int = 1
    picks_port: bool = False
    update: Update = Update()
    relaunch: Relaunch = Relaunch()
    unbound: tuple[str, ...] = ()


Aimed = tuple[Tree, str, Literal["service", "machine"], int]
"""A configuration, a revision, who set it, with which serial."""


class Standing(Struct, frozen=True, kw_only=True):
    """What one machine reads of it, at one revision of the store."""

    known: int
    tree: Tree
    aimed: Aimed | None
    target: tuple[WantedContainer, ...] = ()
    emptied: bool = False
    out_of_time: bool = False


RANGES: tuple[Range, ...] = (Range.single(META), KEYS.deployments_of(SERVICE), KEYS.drains)


@cache
def service_of(tree: Tree, revision: str) -> Service:
    """The service with this revision."""
    return Service(
        name=SERVICE,
        endpoint_port=0 if tree.picks_port else 8080,
        container_port=80,
        instances=tree.instances,
        container=Container(config={"Image": f"web:{revision}", "Env": [f"VARIANT={tree.variant}"]}),
        update=tree.update,
        relaunch=tree.relaunch,
    )


@cache
def effective_of(aimed: Aimed) -> EffectiveService:
    """The service as a machine is to run it."""
    tree, revision, source, serial = aimed
    service = service_of(tree, revision)
    return EffectiveService(service=service, revision=revision, revision_source=source, serial=serial)


@cache
def containers_of(aimed: Aimed, address: str) -> tuple[WantedContainer, ...]:
    """Every container of it that the machine is to run."""
    machine = MachineIdentity(address=address)
    services = {SERVICE: effective_of(aimed)}
    return wanted_containers(Desired(epoch="e", generation=1, machine=machine, services=services))


def standing_of(address: str, reading: Reading) -> Standing | None:
    """What a reading of ``RANGES`` says to the machine."""
    metas, deployments, drains = reading.ranges
    if not metas:
        return None
    tree = decode(metas[0].value, Tree, key=META)
    found = {item.key: item.value for item in deployments}
    own, whole = KEYS.machine_revision(SERVICE, address), KEYS.revision(SERVICE)
    key = own if own in found else whole
    deployment = decode(found[key], Deployment, key=key)
    drain = next((item for item in drains if item.key == KEYS.drain(address)), None)
    rollout = (
        decode(found[KEYS.rollout(SERVICE)], Rollout, key="") if KEYS.rollout(SERVICE) in found else None
    )
    source: Literal["service", "machine"] = "machine" if key == own else "service"
    aimed = tree, deployment.revision or "", source, deployment.serial
    if address in tree.unbound:
        return Standing(known=reading.revision, tree=tree, aimed=None, emptied=drain is not None)
    target = containers_of(aimed, address)
    if rollout is not None and rollout.concerns(address):
        relaunch = rollout.id if rollout.cause == "relaunch" else ""
        target = tuple(structs.replace(one, rollout=rollout.id, relaunch=relaunch) for one in target)
    return Standing(
        known=reading.revision,
        tree=tree,
        aimed=aimed,
        target=() if drain is not None else target,
        emptied=drain is not None,
        out_of_time=drain is not None and decode(drain.value, MachineDrain, key="").deadline == "over",
    )
