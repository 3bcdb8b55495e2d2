"""Rollouts as reading commands show them: the present one of a service, and those that are over."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from msgspec import Struct, field

from orbitcontrol.codec.activity import Activity
from orbitcontrol.model.rollouts import Past, Rollout
from orbitcontrol.model.stored import KeyValue
from orbitcontrol.planning.rollout_records import is_under_way, past_rollouts
from orbitcontrol.planning.rollout_sight import MachineStep, sight_of


class _Shown(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Base of what reading commands print as JSON: documented in docs/cli.md, and stable.

    ``from_`` and ``to`` are revisions, "" for the tree's own; ``machines`` are empty for all.
    """

    id: str
    cause: str
    from_: str = field(name="From")
    to: str
    generation: int
    machines: tuple[str, ...]
    user: str
    started: str
    reason: str
    revert_of: str


class RolloutView(_Shown, frozen=True, kw_only=True):
    """The newest rollout of a service; ``waits`` says whom it waits for.

    Both lists are empty once it is complete.
    """

    state: str
    steps: tuple[MachineStep, ...]
    waits: tuple[str, ...]


class PastView(_Shown, frozen=True, kw_only=True):
    """A rollout in the history; one that goes on has no end, and its state as its outcome."""

    ended: str
    seconds: float
    outcome: str


def rollout_view(rollout: Rollout, activity: Activity, *, alive: Collection[str]) -> RolloutView:
    """The rollout with what its machines do."""
    sight = sight_of(rollout, activity, alive=alive)
    open_ = rollout.state != "complete"
    return RolloutView(
        **_shared(rollout),
        state=rollout.state,
        steps=sight.machines if open_ else (),
        waits=sight.waits if is_under_way(rollout) else (),
    )


def history_views(present: Iterable[Rollout], history: Iterable[KeyValue]) -> list[PastView]:
    """The rollouts of a service, the newest first; one that goes on stands before those that are over."""
    going_on = [rollout for rollout in present if is_under_way(rollout)]
    return [*map(_going_on, going_on), *map(_past, past_rollouts(history))]


def _going_on(rollout: Rollout) -> PastView:
    return PastView(**_shared(rollout), ended="", seconds=0.0, outcome=rollout.state)


def _past(past: Past) -> PastView:
    return PastView(**_shared(past), ended=past.ended, seconds=past.seconds, outcome=past.outcome)


def _shared(record: Rollout | Past) -> dict[str, Any]:
    return {
        "id": record.id,
        "cause": record.cause,
        "from_": (record.previous.revision or "") if record.previous is not None else "",
        "to": record.target.revision or "",
        "generation": record.target.generation,
        "machines": record.machines if isinstance(record.machines, tuple) else (),
        "user": record.user,
        "started": record.started,
        "reason": record.reason,
        "revert_of": record.revert_of,
    }
