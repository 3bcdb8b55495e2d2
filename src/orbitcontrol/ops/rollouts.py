"""What people do with a rollout once it is there: stop it, let it go on, go back, do it all again.

Each act is one transaction that compares the rollout it was decided on: what a daemon did meanwhile is
looked at anew.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET, structs

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import OrbitError
from orbitcontrol.model.rollouts import Aim, Rollout
from orbitcontrol.model.stored import Put, Range
from orbitcontrol.ops.cluster import read_cluster, require_service
from orbitcontrol.ops.deployed import Act, Deployed, persistently, read_deployed
from orbitcontrol.ops.deploying import Change, Outcome
from orbitcontrol.ops.rollout_views import PastView, history_views
from orbitcontrol.planning.rollout_records import is_under_way, operations_of, past_rollouts
from orbitcontrol.planning.rollout_sight import is_canary
from orbitcontrol.ports import Store

Decide = Callable[[Rollout], Rollout | None]
"""The rollout as it is to be; None when it is like that already. Raises ``OrbitError`` with what to do."""


async def pause(store: Store, keys: Keys, act: Act) -> Outcome:
    """No further machine begins until the rollout is resumed; one that has begun goes on."""

    def decide(rollout: Rollout) -> Rollout | None:
        if rollout.state == "paused":
            return None
        if rollout.state != "running":
            raise _refusal(act, rollout, "there is nothing to pause")
        return structs.replace(rollout, state="paused", reason=f"paused by {act.user}")

    return await _amend(store, keys, act, decide)


async def resume(store: Store, keys: Keys, act: Act) -> Outcome:
    """Lets a rollout that people have paused go on."""

    def decide(rollout: Rollout) -> Rollout | None:
        if rollout.state == "running":
            return None
        if rollout.state != "paused":
            raise _refusal(act, rollout, "there is nothing to resume")
        if is_canary(rollout) and not rollout.reason.startswith("paused by "):
            raise OrbitError(
                f"service {act.service}: rollout {rollout.id} waits for a decision about its canary: "
                f"`orbitctl service {act.service} promote` goes on, `… rollback` goes back"
            )
        return structs.replace(rollout, state="running", reason="")

    return await _amend(store, keys, act, decide)


async def promote(store: Store, keys: Keys, act: Act) -> Outcome:
    """Lets a canary go on to all machines."""

    def decide(rollout: Rollout) -> Rollout | None:
        if rollout.promoted and is_under_way(rollout):
            return None
        if rollout.state == "running" and is_canary(rollout):
            raise _refusal(
                act, rollout, "it pauses by itself when its first machines are done; then promote it"
            )
        if rollout.state == "paused" and not is_canary(rollout):
            raise _refusal(
                act, rollout, f"it is no canary: `orbitctl service {act.service} resume` lets it go on"
            )
        if rollout.state != "paused":
            raise _refusal(act, rollout, "there is no canary to promote")
        return structs.replace(rollout, state="running", reason="", promoted=True)

    return await _amend(store, keys, act, decide)


async def relaunch(store: Store, keys: Keys, act: Act) -> Outcome:
    """Replaces every container of the service by a new one of the same revision and configuration."""

    async def attempt() -> Outcome:
        deployed = await read_deployed(store, keys, act.service)
        if deployed.service.container is None:
            raise OrbitError(f"service {act.service}: it has no container, so there is nothing to relaunch")
        present = deployed.rollout
        if present is not None and present.id == act.id:
            return _outcome(deployed, present, written=True)
        rollout = deployed.beginning(act, cause="relaunch", target=deployed.standing())
        operations = operations_of(keys, act.service, rollout, present=present, history=deployed.history)
        await store.commit(deployed.compares, operations)
        return _outcome(deployed, rollout, written=True)

    return await persistently(f"service {act.service}", attempt)


async def read_history(store: Store, keys: Keys, service: str) -> list[PastView]:
    """The rollouts of the service, the newest first; also of one that was removed since.

    Raises ``OrbitError`` with the nearest name for a service that has none and does not exist.
    """
    places = (Range.single(keys.service_config(service)), Range.single(keys.rollout(service)))
    configured, present, history = (await store.read(*places, keys.history(service))).ranges
    if not configured and not history:
        require_service((await read_cluster(store, keys)).configuration, service)
    return history_views((decode(item.value, Rollout, key=item.key) for item in present), history)


async def way_back(store: Store, keys: Keys, act: Act) -> Change:
    """The change that ``rollback`` is: to what was completed before the present rollout.

    Raises ``OrbitError`` when there is nothing to go back to.
    """
    deployed = await read_deployed(store, keys, act.service)
    deployed.require_container()
    present = deployed.rollout
    if present is not None and present.state != "complete":
        return _before_unfinished(act, deployed, present)
    if present is not None and isinstance(present.machines, tuple) and present.previous is not None:
        return _on_one_machine(act, present, present.machines, present.previous)
    now = deployed.standing()
    for past in past_rollouts(deployed.history):
        everywhere = past.outcome == "complete" and past.machines is UNSET
        if everywhere and past.target.revision != now.revision:
            return _change(act, past.target.revision)
    if present is not None and present.previous is not None and present.previous.revision != now.revision:
        return _change(act, present.previous.revision)
    raise OrbitError(
        f"service {act.service}: no other revision was ever completed; "
        f"`orbitctl service {act.service} set revision REV` sets one"
    )


def _before_unfinished(act: Act, deployed: Deployed, present: Rollout) -> Change:
    previous = present.previous
    if previous is None:
        raise _refusal(act, present, "nothing was completed before it; set the revision that you want")
    if isinstance(present.machines, tuple):
        return _on_one_machine(act, present, present.machines, previous)
    if present.cause == "revision" or previous.revision != deployed.standing().revision:
        return _change(act, previous.revision)
    if present.cause == "configuration":
        raise _refusal(act, present, "its configuration comes from the tree: import the earlier tree")
    raise _refusal(act, present, f"it changes no revision; `orbitctl service {act.service} pause` stops it")


def _on_one_machine(act: Act, present: Rollout, machines: tuple[str, ...], previous: Aim) -> Change:
    if len(machines) > 1:
        on = " and ".join(machines)
        raise _refusal(act, present, f"it is for {on} alone: set or unset the revision of each of them")
    return _change(act, previous.revision if previous.own else None, machine=machines[0])


def _change(act: Act, revision: str | None, *, machine: str | None = None) -> Change:
    return Change(
        service=act.service, id=act.id, user=act.user, time=act.time, revision=revision, machine=machine
    )


async def _amend(store: Store, keys: Keys, act: Act, decide: Decide) -> Outcome:
    """Changes the present rollout as ``decide`` says."""

    async def attempt() -> Outcome:
        deployed = await read_deployed(store, keys, act.service)
        present = deployed.rollout
        if present is None:
            raise OrbitError(f"service {act.service}: there has been no rollout yet")
        amended = decide(present)
        if amended is None:
            return _outcome(deployed, present, written=False)
        await store.commit(deployed.compares, [Put(keys.rollout(act.service), encode(amended))])
        return _outcome(deployed, amended, written=True)

    return await persistently(f"service {act.service}", attempt)


def _outcome(deployed: Deployed, rollout: Rollout, *, written: bool) -> Outcome:
    return Outcome(written=written, rollout=rollout, participants=deployed.participants(rollout))


def _refusal(act: Act, rollout: Rollout, what: str) -> OrbitError:
    return OrbitError(
        f"service {act.service}: rollout {rollout.id} ({rollout.cause}) is {rollout.state}; {what}"
    )
