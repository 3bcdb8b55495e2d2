"""Which revision and configuration a machine runs while a rollout goes on, and what differs from it.

The protocol is told in ``planning.rollouts``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from msgspec import structs

from orbitcontrol.model.rollouts import Rollout
from orbitcontrol.planning.container_specs import OwnContainer, WantedContainer
from orbitcontrol.planning.rollouts import Local, Shared, telling


def digest_of(target: Collection[WantedContainer]) -> str:
    """What tells one target of a machine from another, as sixteen hex digits; "" for nothing."""
    if not target:
        return ""
    parts = sorted(f"{one.key.instance} {one.config_hash} {one.relaunch}" for one in target)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def active(local: Local, shared: Shared) -> Rollout | None:
    """The newest rollout, if it is for this machine and the machine knows the configuration it is for."""
    rollout = shared.rollout
    if rollout is None or not rollout.concerns(local.address):
        return None
    is_known = local.known >= shared.rollout_revision and local.generation >= rollout.target.generation
    return rollout if is_known else None


def is_done(local: Local) -> bool:
    """True when this machine has arrived at what is wanted of it now."""
    progress = local.progress
    return progress is not None and progress.step == "done" and progress.target == digest_of(local.target)


def is_settled(local: Local) -> bool:
    """True when what was last completed is what is wanted now.

    Which rollout asked for it is no part of that: what is remembered does not speak of it.
    """
    if local.settled is None:
        return False
    target = tuple(structs.replace(one, rollout="", relaunch="") for one in local.target)
    return target == tuple(structs.replace(one, rollout="", relaunch="") for one in local.settled)


def has_failed(local: Local, rollout: Rollout | None) -> bool:
    """True when this machine has failed on the way to what is wanted of it now."""
    progress = local.progress
    return (
        progress is not None
        and progress.step == "failed"
        and progress.target == digest_of(local.target)
        and (rollout is None or progress.rollout == rollout.id)
    )


def aim_of(local: Local, shared: Shared, *, in_slot: bool) -> tuple[WantedContainer, ...]:
    """What the machine is to run now: the target, or what was last completed."""
    rollout = active(local, shared)
    if local.settled is None or local.emptied or not local.bound or is_done(local):
        return local.target
    if has_failed(local, rollout):
        return local.settled
    is_over = rollout is not None and rollout.state == "complete"
    is_there = bool(alive(local)) and not outdated(local, local.target)
    return local.target if in_slot or is_over or is_there else local.settled


def matches(own: OwnContainer, wanted: WantedContainer | None, local: Local) -> bool:
    """True when the container is what is wanted.

    One that keeps failing is not, but on the way to something new: there ``HealthyDeadline`` judges it.
    """
    is_condemned = own.run_id in local.condemned and telling(local) is None
    return (
        wanted is not None
        and own.key == wanted.key
        and own.config_hash == wanted.config_hash
        and wanted.relaunch in ("", own.rollout)
        and not is_condemned
    )


def outdated(local: Local, aim: Collection[WantedContainer]) -> tuple[OwnContainer, ...]:
    """The containers that run and are not what is aimed at, one of each instance standing for it."""
    wanted = {one.key: one for one in aim}
    found: list[OwnContainer] = []
    standing: set[object] = set()
    for own in sorted(alive(local), key=lambda own: _rank(own, local)):
        if own.key in standing or not matches(own, wanted.get(own.key), local):
            found.append(own)
        else:
            standing.add(own.key)
    return tuple(found)


def alive(local: Local) -> list[OwnContainer]:
    """The containers that run, or may."""
    return [own for own in local.own if own.alive]


def _rank(own: OwnContainer, local: Local) -> tuple[bool, str, str]:
    return own.run_id not in local.endpoints, own.container.started_at, own.container.id
