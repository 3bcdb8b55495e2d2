"""The steps of a rollout that are transactions: what each compares and what it writes.

Every step of a slot's holder compares the slot, and every change of the rollout's record the record, so what
was planned from an outdated reading is refused by the store and planned anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, Struct, structs

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.model.rollouts import Aim, Outcome, Progress, Rollout, Slot
from orbitcontrol.model.state import Deployment
from orbitcontrol.model.stored import Absent, Compare, Delete, KeyValue, Operation, Put, Range, Unchanged
from orbitcontrol.planning.rollout_aims import active, digest_of
from orbitcontrol.planning.rollout_records import aim_of, begun, operations_of, past_of, reverts, trimmed
from orbitcontrol.planning.rollout_steps import (
    Advance,
    Begin,
    Claim,
    Complete,
    Evict,
    Expel,
    Fail,
    Pause,
    Release,
    Report,
    Take,
)
from orbitcontrol.planning.rollout_turns import slots_now
from orbitcontrol.planning.rollouts import Held, Local, Shared


class Stamp(Struct, frozen=True, kw_only=True):
    """What a record says of its making: a new random id, the time (RFC 3339 in UTC), by whom."""

    id: str
    time: str
    user: str = ""


class Transaction(Struct, frozen=True):
    """All operations if all comparisons hold."""

    compares: tuple[Compare, ...]
    operations: tuple[Operation, ...]


Writing = Begin | Report | Take | Claim | Evict | Expel | Advance | Release | Fail | Pause | Complete

REWRITES = (Begin, Fail, Pause, Complete)
"""Steps for which everything below ``deployments/<service>/`` has to be read."""


def transaction(
    action: Writing,
    keys: Keys,
    local: Local,
    shared: Shared,
    *,
    stamp: Stamp,
    deployments: Sequence[KeyValue],
) -> Transaction:
    """The transaction of a step that was planned from ``local`` and ``shared``.

    ``deployments`` is what stands below ``deployments/<service>/``, for ``REWRITES``.
    """
    match action:
        case Report() | Expel():
            return _of_roster(action, keys, local)
        case Take() | Claim() | Evict() | Advance() | Release():
            return _of_slot(action, keys, local, shared)
        case Begin():
            return _begin(action, keys, local, shared, stamp=stamp, deployments=deployments)
        case Fail():
            return _fail(action, keys, local, shared, stamp=stamp, deployments=deployments)
        case Pause(reason=reason):
            rollout = _rollout(shared)
            paused = structs.replace(rollout, state="paused", reason=reason)
            return Transaction((_same(keys, local, shared),), (_put(keys, local, paused),))
        case Complete():
            rollout = structs.replace(_rollout(shared), state="complete", reason="")
            return Transaction(
                (_same(keys, local, shared),),
                (
                    _put(keys, local, rollout),
                    *_ended(keys, local, rollout, "complete", stamp=stamp, deployments=deployments),
                ),
            )


def _of_roster(action: Report | Expel, keys: Keys, local: Local) -> Transaction:
    match action:
        case Report(progress=progress):
            return Transaction((), (_progress(keys, local, progress),))
        case Expel(machine=machine):
            return Transaction(
                (Absent(Range.single(keys.alive(machine))),),
                (Delete(Range.single(keys.progress(local.service, machine))),),
            )


def _of_slot(
    action: Take | Claim | Evict | Advance | Release, keys: Keys, local: Local, shared: Shared
) -> Transaction:
    service = local.service
    match action:
        case Take(number=number, reason=reason):
            rollout = active(local, shared)
            slot = Slot(
                machine=local.address,
                session=local.session,
                reason=reason,
                rollout=rollout.id if rollout is not None and rollout.state != "complete" else "",
            )
            return Transaction(
                (
                    Absent(Range.single(keys.slot(service, number))),
                    Absent(keys.slots_from(service, slots_now(local, shared))),
                    _same(keys, local, shared),
                ),
                (Put(keys.slot(service, number), encode(slot)),),
            )
        case Evict(number=number):
            held = shared.slots[number]
            return Transaction(
                (
                    Unchanged(keys.slot(service, number), held.revision),
                    Absent(Range.single(keys.alive(held.slot.machine))),
                ),
                (Delete(Range.single(keys.slot(service, number))),),
            )
    number, held = _mine(local, shared)
    key = keys.slot(service, number)
    compares = (Unchanged(key, held.revision),)
    match action:
        case Claim():
            claimed = structs.replace(held.slot, session=local.session)
            return Transaction(compares, (Put(key, encode(claimed)),))
        case Advance(step=step, reason=reason):
            rollout = active(local, shared)
            slot = structs.replace(held.slot, step=step, rollout=rollout.id if rollout else held.slot.rollout)
            told = local.progress
            tells = (
                told is not None and local.bound and not local.emptied and told.step not in ("done", "failed")
            )
            progress = (
                (_progress(keys, local, structs.replace(told, step=step, reason=reason)),)
                if told is not None and tells
                else ()
            )
            return Transaction(compares, (Put(key, encode(slot)), *progress))
        case Release(progress=progress):
            return Transaction(compares, (Delete(Range.single(key)), _progress(keys, local, progress)))


def _begin(
    action: Begin, keys: Keys, local: Local, shared: Shared, *, stamp: Stamp, deployments: Sequence[KeyValue]
) -> Transaction:
    """A rollout for a change of the configuration, in the place of whatever there was."""
    standing = _standing(keys, local, deployments)
    rollout = begun(
        id=stamp.id,
        cause=action.cause,
        scope=UNSET,
        target=structs.replace(standing, generation=local.generation),
        standing=standing,
        present=shared.rollout,
        policy=local.update,
        live=len(shared.roster.progress.keys() - set(shared.roster.lost)),
        user=stamp.user,
        started=stamp.time,
    )
    history = _history(keys, local, deployments)
    joined = Progress(rollout=stamp.id, step="waiting", target=digest_of(local.target))
    return Transaction(
        (_same(keys, local, shared),),
        (
            *operations_of(keys, local.service, rollout, present=shared.rollout, history=history),
            _progress(keys, local, joined),
        ),
    )


def _fail(
    action: Fail, keys: Keys, local: Local, shared: Shared, *, stamp: Stamp, deployments: Sequence[KeyValue]
) -> Transaction:
    """The machine has failed, and stops the rollout; a revision goes back if it is to, in the same step."""
    rollout = _rollout(shared)
    told = local.progress or Progress()
    failed = structs.replace(told, step="failed", reason=action.reason, target=digest_of(local.target))
    mine = shared.held_by(local.address)
    compares: list[Compare] = [_same(keys, local, shared)]
    if mine is not None:
        compares.append(Unchanged(keys.slot(local.service, mine[0]), mine[1].revision))
    operations: list[Operation] = [_progress(keys, local, failed)]
    if rollout.state in ("running", "paused"):
        reason = f"{local.address}: {action.reason}"
        over = structs.replace(rollout, state="failed", reason=reason)
        operations += _ended(keys, local, over, "failed", stamp=stamp, deployments=deployments)
        back = _way_back(keys, local, over, stamp=stamp, deployments=deployments)
        if back is None:
            operations.append(_put(keys, local, over))
        else:
            compares += back.compares
            operations += back.operations
    return Transaction(tuple(compares), tuple(operations))


def _way_back(
    keys: Keys, local: Local, failed: Rollout, *, stamp: Stamp, deployments: Sequence[KeyValue]
) -> Transaction | None:
    """The revision that was completed last, set again, and a rollout of it; None where nothing goes back."""
    previous = failed.previous
    if previous is None or not reverts(failed):
        return None
    set_ = {item.key: item for item in deployments}
    own = None if failed.machines is UNSET else failed.machines[0]
    key = keys.machine_revision(local.service, own) if own else keys.revision(local.service)
    found = {
        item.key: decode(item.value, Deployment, key=item.key)
        for item in deployments
        if item.key == keys.revision(local.service) or item.key in keys.machine_revisions(local.service)
    }
    serial = max((one.serial for one in found.values()), default=0) + 1
    restored = Deployment(
        revision=previous.revision, serial=serial, deployment_time=stamp.time, user=stamp.user
    )
    present = set_.get(key)
    compare: Compare = (
        Unchanged(key, present.mod_revision) if present is not None else Absent(Range.single(key))
    )
    operations: list[Operation] = [Put(key, encode(restored))]
    if own and not previous.own:  # the machine had none of its own: the service's, above the one that goes
        whole = found.get(keys.revision(local.service))
        after = structs.replace(whole, serial=serial) if whole is not None else restored
        operations = [Put(keys.revision(local.service), encode(after)), Delete(Range.single(key))]
    rollout = structs.replace(
        failed,
        id=stamp.id,
        target=structs.replace(previous, serial=serial, generation=local.generation),
        state="running",
        reason=f"after {failed.id} failed: {failed.reason}",
        revert_of=failed.id,
        promoted=False,
        user=stamp.user,
        started=stamp.time,
    )
    return Transaction((compare,), (*operations, _put(keys, local, rollout)))


def _ended(
    keys: Keys,
    local: Local,
    rollout: Rollout,
    outcome: Outcome,
    *,
    stamp: Stamp,
    deployments: Sequence[KeyValue],
) -> list[Operation]:
    """The rollout's entry in the history, which stays as long as it may be."""
    past = past_of(rollout, outcome=outcome, ended=stamp.time)
    old = trimmed(_history(keys, local, deployments), adding=1)
    put = Put(keys.past_rollout(local.service, rollout.id), encode(past))
    return [put, *(Delete(Range.single(key)) for key in old if key != put.key)]


def _history(keys: Keys, local: Local, deployments: Sequence[KeyValue]) -> list[KeyValue]:
    return [item for item in deployments if item.key in keys.history(local.service)]


def _standing(keys: Keys, local: Local, deployments: Sequence[KeyValue]) -> Aim:
    """What is set for the service now."""
    found = next((item for item in deployments if item.key == keys.revision(local.service)), None)
    deployment = None if found is None else decode(found.value, Deployment, key=found.key)
    return aim_of(deployment, generation=local.generation)


def _same(keys: Keys, local: Local, shared: Shared) -> Compare:
    """That the rollout's record is as it was read."""
    key = keys.rollout(local.service)
    if shared.rollout is None:
        return Absent(Range.single(key))
    return Unchanged(key, shared.rollout_revision)


def _rollout(shared: Shared) -> Rollout:
    assert shared.rollout is not None  # noqa: S101 -- planned from a rollout
    return shared.rollout


def _mine(local: Local, shared: Shared) -> tuple[int, Held]:
    mine = shared.held_by(local.address)
    assert mine is not None  # noqa: S101 -- planned with a slot in hand
    return mine


def _put(keys: Keys, local: Local, rollout: Rollout) -> Put:
    return Put(keys.rollout(local.service), encode(rollout))


def _progress(keys: Keys, local: Local, progress: Progress | None) -> Operation:
    key = keys.progress(local.service, local.address)
    return Delete(Range.single(key)) if progress is None else Put(key, encode(progress))
