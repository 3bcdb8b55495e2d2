"""What the holder of a slot does: one instance after the other, from what there is to what is aimed at.

The protocol is told in ``planning.rollouts``. Each function returns the next step, or None when what it
looks after is as it should be.
"""

from __future__ import annotations

from msgspec import Struct

from orbitcontrol.model.rollouts import Rollout
from orbitcontrol.model.runs import RunId
from orbitcontrol.model.service import Update
from orbitcontrol.planning.container_specs import (
    InstanceKey,
    OwnContainer,
    WantedContainer,
    is_kept,
    kept_name,
    on_host_network,
)
from orbitcontrol.planning.rollout_acks import draining, missing, names
from orbitcontrol.planning.rollout_aims import matches, outdated
from orbitcontrol.planning.rollout_steps import (
    Action,
    Directive,
    Fail,
    GiveUp,
    Remove,
    Rename,
    Revive,
    Start,
    Stop,
    Wait,
)
from orbitcontrol.planning.rollouts import Local, Memory, Shared, is_up


class Replacement(Struct, frozen=True, kw_only=True):
    """Everything that the steps inside a slot are decided from.

    ``lenient`` where a failure fails nothing more: a machine that has failed goes back to what it ran before,
    or starts the same anew.
    """

    local: Local
    shared: Shared
    memory: Memory
    now: float
    aim: tuple[WantedContainer, ...]
    policy: Update
    rollout: Rollout | None = None
    lenient: bool = False
    reason: str = ""


class Move(Struct, frozen=True):
    """The next step, and what is to become of endpoints meanwhile."""

    action: Action
    directives: dict[RunId, Directive] = {}


def replace(given: Replacement) -> Move | None:
    """The next step of the machine; None when all instances are as aimed at."""
    wanted = {one.key: one for one in given.aim}
    keys = sorted({*wanted, *(own.key for own in given.local.own)})
    for key in keys:
        move = _instance(given, key, wanted.get(key))
        if move is not None:
            return move
    for run in given.local.processes if given.local.emptied else ():
        move = _process(given, run)
        if move is not None:
            return move
    return None


def _instance(given: Replacement, key: InstanceKey, wanted: WantedContainer | None) -> Move | None:
    local = given.local
    mine = [own for own in local.own if own.key == key]
    olds = [own for own in outdated(local, given.aim) if own.key == key]
    good = next((own for own in mine if own.alive and own not in olds), None)
    rest = [own for own in mine if not own.alive and own.container.state != "removing"]
    if wanted is None or good is None:
        first = next((own for own in olds if wanted is None or not _beside(given, wanted)), None)
        if first is not None:
            has_kept = any(is_kept(own) for own in rest)
            return _take_out(given, first, keep=not (wanted is None or given.lenient or has_kept))
        if wanted is None:
            return _remove_all(rest)
        return _start(given, wanted, olds, rest)
    return _prove(given, wanted, good, olds, rest)


def _beside(given: Replacement, wanted: WantedContainer) -> bool:
    """True when the new container comes first."""
    service = wanted.effective.service
    container = service.container
    picks = service.picks_port and container is not None and not on_host_network(container)
    return picks and given.policy.order == "start-first"


def _start(
    given: Replacement, wanted: WantedContainer, olds: list[OwnContainer], rest: list[OwnContainer]
) -> Move:
    """The new container, or a kept one that is what is wanted."""
    local = given.local
    failed = next((own for own in rest if _is_attempt(given, own) and matches(own, wanted, local)), None)
    reason = local.failures.get((wanted.key, wanted.config_hash), "")
    spent = tuple(own.container for own in rest if not is_kept(own))
    if failed is not None and failed.ended and not given.lenient:
        told = f"its container ended with exit code {failed.container.exit_code}"
        return Move(Fail(f"{wanted.name}: {told}", failed.container.id))
    if reason and not given.lenient:
        return Move(Fail(f"{wanted.name}: {reason}"))
    kept = next((own for own in rest if is_kept(own) and matches(own, wanted, local)), None)
    named = next((own for own in olds if own.container.name == wanted.name), None)
    if kept is not None and named is not None:
        return Move(Rename(named, kept_name(named, wanted.name)))
    if kept is not None:
        return Move(Revive(kept, wanted, ended=spent, reason=given.reason))
    if wanted.image in local.images:
        return _without_image(given, wanted)
    return Move(Start(wanted, beside=tuple(olds), ended=spent, reason=given.reason))


def _is_attempt(given: Replacement, own: OwnContainer) -> bool:
    """True for a container that was created for this very rollout."""
    return given.rollout is not None and own.rollout == given.rollout.id and not is_kept(own)


def _without_image(given: Replacement, wanted: WantedContainer) -> Move:
    reason = given.local.images[wanted.image]
    if reason and not given.lenient:
        return Move(Fail(f"{wanted.name}: {reason}"))
    return Move(Wait(step="pulling", reason=reason or f"pulls {wanted.image}"))


def _prove(
    given: Replacement,
    wanted: WantedContainer,
    good: OwnContainer,
    olds: list[OwnContainer],
    rest: list[OwnContainer],
) -> Move | None:
    """Sees the new container healthy and routed to, then ends what it replaces."""
    local, run = given.local, good.run_id
    exposed: dict[RunId, Directive] = {run: "expose"} if olds or rest else {}
    move = _unproven(given, wanted, good) or _unrouted(given, wanted, good, exposed)
    if move is not None:
        return move
    if given.lenient and run not in local.endpoints and not is_up(local.health.get(run)):
        return None
    if olds:
        move = _take_out(given, olds[0], keep=False)
        return Move(move.action, {**exposed, **move.directives})
    if rest:
        return Move(Remove(rest[0], "its successor is routed to"), exposed)
    return Move(Rename(good, wanted.name)) if good.container.name != wanted.name else None


def _unrouted(
    given: Replacement, wanted: WantedContainer, good: OwnContainer, exposed: dict[RunId, Directive]
) -> Move | None:
    """What to do while not every load balancer routes to the new container; None when they do."""
    local = given.local
    endpoint = local.endpoints.get(good.run_id)
    if not local.has_endpoint or (given.lenient and not is_up(local.health.get(good.run_id))):
        return None
    if endpoint is None or endpoint.state == "draining":
        return Move(Wait(step="verifying", reason="its endpoint is being published"), exposed)
    waited = missing(given.shared, endpoint.id, "routed") if exposed and not _is_failed(given) else []
    if not waited:
        return None
    reason = f"waits for {names(waited)} to route to {wanted.name}"
    return Move(Wait(step="verifying", reason=reason), exposed)


def _unproven(given: Replacement, wanted: WantedContainer, good: OwnContainer) -> Move | None:
    """What to do while a new container has not proven itself; None when it has."""
    local, run, policy = given.local, good.run_id, given.policy
    if run in local.endpoints:
        return None
    health = local.health.get(run)
    healthy = is_up(health)
    needed = 0.0 if _is_failed(given) or _goes_back(given) else float(policy.min_healthy_time)
    since = health.since if health is not None else given.now
    if healthy and given.now - since >= needed:
        return None
    age = local.ages.get(run, 0.0)
    if health is None or not health.judged:  # a daemon that has just started knows nothing of old containers
        age = min(age, given.now - since)
    left = policy.healthy_deadline + (needed if healthy else 0.0) - age
    told = health.reason if health is not None and health.reason else "its checks have not passed yet"
    if left <= 0 and not given.lenient:
        reason = f"{wanted.name}: not healthy within {policy.healthy_deadline}: {told}"
        return Move(Fail(reason, good.container.id))
    until = since + needed if healthy else given.now + max(left, 0.0)
    if given.lenient and left <= 0:
        return None
    reason = "healthy, and has to stay so" if healthy else told
    return Move(Wait(step="verifying", reason=reason, until=until), {run: "hold"})


def _is_failed(given: Replacement) -> bool:
    """True on a machine that goes back to what it ran before its rollout failed: nothing to be proven."""
    return given.lenient and given.local.progress is not None and given.local.progress.step == "failed"


def _goes_back(given: Replacement) -> bool:
    """True in a rollout that goes back to what has served before."""
    return given.rollout is not None and given.rollout.revert_of != ""


def _take_out(given: Replacement, old: OwnContainer, *, keep: bool) -> Move:
    """Drains a container, with acknowledgement, and stops it."""
    move = _drained(given, old.run_id)
    if move is not None:
        return move
    directive: Directive = "drain" if old.run_id in given.local.endpoints else "hold"
    return Move(Stop(old, keep, given.reason), {old.run_id: directive})


def _process(given: Replacement, run: RunId) -> Move | None:
    """Drains a run that somebody else starts and stops, and holds its endpoint back."""
    if run not in given.local.endpoints:
        return None
    move = _drained(given, run)
    if move is not None:
        return move
    return Move(Wait(step="draining", reason="its endpoint is being withdrawn"), {run: "hold"})


def _drained(given: Replacement, run: RunId) -> Move | None:
    """The next step of a drain; None when nobody uses the run any more."""
    local, memory = given.local, given.memory
    endpoint = local.endpoints.get(run)
    if endpoint is None:
        return _published_first(given, run)
    drain: dict[RunId, Directive] = {run: "drain"}
    since = memory.marked.get(endpoint.id)
    if endpoint.state != "draining" or not endpoint.ack or since is None:
        return Move(Wait(step="draining", reason="its endpoint is being marked"), drain)
    found = draining(
        given.shared,
        endpoint.id,
        since=since,
        now=given.now,
        timeout=float(given.policy.drain_timeout),
        out_of_time=local.out_of_time,
    )
    if found.state == "ended":
        return None
    if found.state == "unconfirmed":
        return Move(GiveUp(found.reason), drain)
    return Move(Wait(step="draining", reason=found.reason, until=found.until), drain)


def _published_first(given: Replacement, run: RunId) -> Move | None:
    """What to do about a run without an endpoint; None when nobody can be sent to it.

    After a lost lease load balancers go on with what they knew, so that a run that serves may be in use
    without an endpoint. It is published before it drains. One whose checks fail is not.
    """
    local = given.local
    health = local.health.get(run)
    if not local.has_endpoint or run in local.fresh:
        return None
    if is_up(health):
        return Move(Wait(step="draining", reason="its endpoint has to be published before it drains"))
    if health is None or not health.judged:
        return Move(Wait(step="draining", reason="its checks have not said yet whether it serves"))
    return None


def _remove_all(rest: list[OwnContainer]) -> Move | None:
    return Move(Remove(rest[0], "nothing wants it here any more")) if rest else None
