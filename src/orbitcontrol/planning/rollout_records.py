"""How the record of a rollout begins and ends: the same for people's commands and for daemons.

``deployments/<service>/rollout`` holds one rollout, the newest. Whoever begins another replaces it in a
transaction that compares the old one, so what the old one still stands for must go over into the new one:

* *Its scope.* While a rollout for all machines runs, some of them still owe it. One for a single machine
  that takes its place is therefore for all as well; one that takes the place of another single machine's
  is for both.
* *Its way back.* ``previous`` is what was completed last. What an unfinished rollout was on its way to was
  not, so the next one has the same way back.

Its end is kept in the history. A rollout that was running or paused ends by being superseded; one that is
complete or failed has its entry already.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import UNSET, UnsetType

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.times import since_epoch
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import UndecodableValue
from orbitcontrol.model.rollouts import Aim, Cause, Outcome, Past, Rollout
from orbitcontrol.model.service import Update
from orbitcontrol.model.state import Deployment
from orbitcontrol.model.stored import Delete, KeyValue, Operation, Put, Range
from orbitcontrol.planning.slots import slots_of

KEPT = 50
"""How many rollouts that are over are remembered for each service."""

_DELETED_AT_ONCE = 20
"""A history that is far too long becomes shorter with each rollout: transactions are bounded."""

Scope = tuple[str, ...] | UnsetType
"""The machines that a rollout is for; unset for all."""


def aim_of(deployment: Deployment | None, *, generation: int, own: bool = False) -> Aim:
    """What a service is to run where this deployment holds; the image's own tag without one."""
    if deployment is None:
        return Aim(generation=generation)
    return Aim(revision=deployment.revision, serial=deployment.serial, generation=generation, own=own)


def begun(
    *,
    id: str,
    cause: Cause,
    scope: Scope,
    target: Aim,
    standing: Aim | None,
    present: Rollout | None,
    policy: Update,
    live: int,
    user: str,
    started: str,
    revert_of: str = "",
) -> Rollout:
    """A rollout that takes the place of ``present``.

    ``standing`` is what is set at this moment, where the new one is for; ``live`` counts the machines that
    are alive and run the service.
    """
    machines = _scope(scope, present)
    return Rollout(
        id=id,
        cause=cause,
        machines=machines,
        target=target,
        previous=_previous(scope, standing, present),
        policy=policy,
        slots=slots_of(policy.max_parallel, machines=max(1, live if machines is UNSET else len(machines))),
        revert_of=revert_of,
        user=user,
        started=started,
    )


def past_of(rollout: Rollout, *, outcome: Outcome, ended: str, reason: str | None = None) -> Past:
    """The rollout's entry in the history; its own reason stands where no other is given."""
    return Past(
        id=rollout.id,
        cause=rollout.cause,
        machines=rollout.machines,
        target=rollout.target,
        previous=rollout.previous,
        outcome=outcome,
        reason=rollout.reason if reason is None else reason,
        revert_of=rollout.revert_of,
        user=rollout.user,
        started=rollout.started,
        ended=ended,
        seconds=_seconds(rollout.started, ended),
    )


def trimmed(history: Iterable[KeyValue], *, adding: int = 0) -> tuple[str, ...]:
    """The keys of a service's history to delete, so that ``adding`` more leave the newest ``KEPT``.

    An entry is written once, so the store's own revisions say which are the newest.
    """
    newest = sorted(history, key=lambda item: item.mod_revision, reverse=True)
    return tuple(item.key for item in reversed(newest[max(KEPT - adding, 0) :]))[:_DELETED_AT_ONCE]


def past_rollouts(history: Iterable[KeyValue]) -> list[Past]:
    """The history, the newest first; what cannot be read is left out."""
    found = []
    for item in sorted(history, key=lambda item: item.mod_revision, reverse=True):
        try:
            found.append(decode(item.value, Past, key=item.key))
        except UndecodableValue:
            continue
    return found


def operations_of(
    keys: Keys,
    service: str,
    rollout: Rollout,
    *,
    present: Rollout | None,
    history: Iterable[KeyValue],
) -> list[Operation]:
    """Puts the new rollout in the place of ``present``, whose end goes into the history if it had none.

    The transaction must compare the key of ``present``, or that there is none.
    """
    put: list[Operation] = [Put(keys.rollout(service), encode(rollout))]
    if present is None or not is_under_way(present):
        return put
    past = past_of(present, outcome="superseded", ended=rollout.started, reason=_superseded_by(rollout))
    key = keys.past_rollout(service, present.id)
    others = [item for item in history if item.key != key]
    return [
        *put,
        Put(key, encode(past)),
        *(Delete(Range.single(old)) for old in trimmed(others, adding=1)),
    ]


def is_under_way(rollout: Rollout) -> bool:
    """True while machines may still act for it; a paused one waits to go on."""
    return rollout.state in ("running", "paused")


def reverts(rollout: Rollout) -> bool:
    """True when the rollout, should it fail, is followed by one back to what was completed last.

    Of one for several single machines, only the last one's way back is known.
    """
    return (
        rollout.cause == "revision"
        and rollout.policy.auto_revert
        and rollout.previous is not None
        and not rollout.revert_of
        and (rollout.machines is UNSET or len(rollout.machines) == 1)
    )


def _scope(scope: Scope, present: Rollout | None) -> Scope:
    if scope is UNSET or present is None or not is_under_way(present):
        return scope
    return UNSET if present.machines is UNSET else tuple(sorted({*present.machines, *scope}))


def _previous(scope: Scope, standing: Aim | None, present: Rollout | None) -> Aim | None:
    """What was completed last where the new rollout is for."""
    if present is None or present.state == "complete":
        return standing
    return present.previous if present.machines in (UNSET, scope) else standing


def _superseded_by(rollout: Rollout) -> str:
    by = f" by {rollout.user}" if rollout.user else ""
    return f"rollout {rollout.id} ({rollout.cause}) was begun{by}"


def _seconds(started: str, ended: str) -> float:
    try:
        return max(since_epoch(ended) - since_epoch(started), 0.0)
    except ValueError:
        return 0.0
