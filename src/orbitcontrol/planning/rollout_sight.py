"""A rollout as people see it: how far each machine is, whom it waits for, and whether it is over.

All of it is read off the store's records. A machine's own word about its step counts; where it says
nothing, what the records themselves give away is told: whose turn it is, which load balancer has not
confirmed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from msgspec import Struct

from orbitcontrol.codec.activity import Activity
from orbitcontrol.model.rollouts import Past, Rollout, Step
from orbitcontrol.planning.rollout_records import reverts

UNREACHABLE = "its daemon has no lease: it is stopped or cut off"

EndKind = Literal["complete", "failed", "reverted", "revert-failed", "paused", "superseded", "removed"]


class MachineStep(Struct, frozen=True, kw_only=True, rename="pascal"):
    """How far a machine is in a rollout."""

    machine: str
    step: Step
    reason: str = ""


class Sight(Struct, frozen=True, kw_only=True):
    """A rollout at one moment, the machines that take part, and whom it waits for, a line each."""

    rollout: Rollout
    machines: tuple[MachineStep, ...] = ()
    waits: tuple[str, ...] = ()


class End(Struct, frozen=True, kw_only=True):
    """How a rollout that is followed ended, and the record that shows it.

    ``reverted`` and ``revert-failed`` are the ends of the way back of one that failed. ``by`` is the rollout
    that superseded it, or that went back.
    """

    kind: EndKind
    reason: str = ""
    by: Rollout | None = None


def sight_of(rollout: Rollout, activity: Activity, *, alive: Collection[str]) -> Sight:
    """What is to be seen of the rollout while these machines are alive."""
    machines = tuple(
        _step_of(address, rollout, activity, alive=address in alive)
        for address in sorted(activity.progress)
        if rollout.concerns(address)
    )
    return Sight(rollout=rollout, machines=machines, waits=unconfirmed(activity, alive=alive))


def unconfirmed(activity: Activity, *, alive: Collection[str], machine: str | None = None) -> tuple[str, ...]:
    """Which load balancers a machine waits for, and for what; of all machines, or of one."""
    lines = []
    for address, endpoint in sorted(activity.endpoints.items()):
        if not endpoint.ack or machine not in (None, endpoint.machine):
            continue
        acks = activity.acks.get(endpoint.id, {})
        for balancer in sorted(activity.balancers):
            ack = acks.get(balancer)
            gone = "" if balancer in alive else f"; {UNREACHABLE}"
            if endpoint.state == "up" and (ack is None or ack.step != "routed"):
                lines.append(f"load balancer {balancer} does not route to {address} yet{gone}")
            elif endpoint.state == "draining" and (ack is None or ack.step != "drained"):
                lines.append(f"load balancer {balancer} has not confirmed that {address} drains{gone}")
            elif endpoint.state == "draining" and ack is not None and ack.sessions:
                lines.append(f"load balancer {balancer} has {ack.sessions} sessions left with {address}")
    return tuple(lines)


def ending_of(followed: str, record: Rollout | None, history: Mapping[str, Past]) -> End | None:
    """How the rollout with the id ``followed`` ended; None while it goes on, or is on its way back.

    ``record`` is the service's rollout now, ``history`` what is over, by id: another may have begun since.
    """
    if record is None:
        return End(kind="removed")
    if record.id == followed:
        return _own_end(record)
    if record.revert_of == followed:
        failed = history.get(followed)
        return _end_of_revert(record, reason=failed.reason if failed is not None else "")
    return _end_before(followed, record, history)


def is_canary(rollout: Rollout) -> bool:
    """True when it stops after its first machines, until people have looked at them."""
    return rollout.policy.canary > 0 and not rollout.promoted and not rollout.revert_of


def _own_end(record: Rollout) -> End | None:
    match record.state:
        case "complete" | "paused":
            return End(kind=record.state, reason=record.reason)
        case "failed" if not reverts(record):
            return End(kind="failed", reason=record.reason)
        case _:
            return None


def _end_of_revert(record: Rollout, *, reason: str) -> End | None:
    """``reason`` is why there was something to go back from."""
    match record.state:
        case "complete":
            return End(kind="reverted", reason=reason, by=record)
        case "failed":
            return End(kind="revert-failed", reason=record.reason, by=record)
        case "paused":
            return End(kind="paused", reason=record.reason, by=record)
        case _:
            return None


def _end_before(followed: str, record: Rollout, history: Mapping[str, Past]) -> End:
    """How it ended when another one has begun since."""
    past = history.get(followed)
    if past is None or past.outcome == "superseded":
        return End(kind="superseded", by=record)
    if past.outcome == "complete":
        return End(kind="complete")
    revert = next((each for each in history.values() if each.revert_of == followed), None)
    if revert is None:
        return End(kind="failed", reason=past.reason)
    kinds: dict[str, EndKind] = {
        "complete": "reverted",
        "failed": "revert-failed",
        "superseded": "superseded",
    }
    reason = revert.reason if revert.outcome == "failed" else past.reason
    return End(kind=kinds[revert.outcome], reason=reason, by=record)


def _step_of(address: str, rollout: Rollout, activity: Activity, *, alive: bool) -> MachineStep:
    progress = activity.progress[address]
    step, reason = (progress.step, progress.reason) if progress.rollout == rollout.id else ("waiting", "")
    if step != "done" and not alive:
        reason = UNREACHABLE
    if step == "waiting" and not reason:
        reason = _turn_of(address, activity)
    return MachineStep(machine=address, step=step, reason=reason)


def _turn_of(address: str, activity: Activity) -> str:
    """Who is out now, while this machine has not had its turn."""
    out = sorted({slot.machine for slot in activity.slots.values()} - {address})
    return f"{', '.join(out)} first" if out else ""
