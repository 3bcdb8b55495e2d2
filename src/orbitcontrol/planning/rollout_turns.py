"""Whose turn it is: slots, who is out already, canaries, and when a rollout is complete.

The argument for it stands in ``planning.rollouts``.
"""

from __future__ import annotations

from collections.abc import Collection

from orbitcontrol.model.rollouts import Rollout
from orbitcontrol.planning.rollouts import Held, Local, Shared
from orbitcontrol.planning.slots import slots_of

PEERS = 16
"""Machines that each one keeps in touch with."""


def slots_now(local: Local, shared: Shared) -> int:
    """How many slots there are: those of the rollout under way, else by today's configuration."""
    rollout = shared.rollout
    if rollout is not None and rollout.state in ("running", "paused"):
        return rollout.slots
    return slots_of(local.update.max_parallel, machines=max(1, len(shared.roster.progress)))


def free_slot(local: Local, shared: Shared) -> int | None:
    """The lowest number that is free; None when none is."""
    slots = slots_now(local, shared)
    if any(number >= slots for number in shared.slots):
        return None
    return next((number for number in range(slots) if number not in shared.slots), None)


def others_out(local: Local, shared: Shared, mine: Held | None) -> list[str]:
    """The machines that are out, or about to be, as far as this one has to count them, in order.

    ``mine`` is this machine's slot: others that have taken theirs later, and have not begun, count this one.
    """
    roster = shared.roster
    out = {
        address
        for address in roster.progress
        if address not in roster.emptied and (address in roster.lost or address in roster.lacking)
    }
    for held in shared.slots.values():
        has_begun = held.slot.step != "waiting"
        if has_begun or mine is None or held.revision < mine.revision:
            out.add(held.slot.machine)
    return sorted(out - set(roster.gone) - {local.address})


def may_go_out(local: Local, shared: Shared, mine: Held | None) -> str:
    """Why the machine may not be taken out now; "" when it may, or is out already."""
    if local.address in shared.roster.lacking:
        return ""
    out = others_out(local, shared, mine)
    slots = slots_now(local, shared)
    if len(out) < slots:
        return ""
    return f"waits for {', '.join(out[:3])}{' …' if len(out) > 3 else ''}: {slots} may be out together"


def peers_of(address: str, machines: Collection[str]) -> tuple[str, ...]:
    """The machines that this one has to have reached, so that it can tell one day that they are gone.

    Those that follow it in order, around the end: each machine is known to a few others, however many there
    are. Whoever proves one gone takes it off the roster for all.
    """
    others = sorted({*machines} - {address})
    begin = next((place for place, one in enumerate(others) if one > address), 0)
    return tuple((others[begin:] + others[:begin])[:PEERS])


def canary_over(rollout: Rollout, shared: Shared) -> bool:
    """True when the canary's machines are done, and people have not let the rest go on."""
    return _is_canary(rollout) and _replaced(rollout, shared) >= rollout.policy.canary


def canary_full(rollout: Rollout, shared: Shared) -> bool:
    """True when no further machine may begin before people decide."""
    under_way = sum(held.slot.rollout == rollout.id for held in shared.slots.values())
    return _is_canary(rollout) and _replaced(rollout, shared) + under_way >= rollout.policy.canary


def _is_canary(rollout: Rollout) -> bool:
    return rollout.policy.canary > 0 and not rollout.promoted and not rollout.revert_of


def _replaced(rollout: Rollout, shared: Shared) -> int:
    return sum(
        one.rollout == rollout.id and one.step == "done" and one.replaced
        for one in shared.roster.progress.values()
    )


def owing(rollout: Rollout, shared: Shared) -> list[str]:
    """The live, undrained machines that the rollout still waits for, in order."""
    roster = shared.roster
    return sorted(
        address
        for address, progress in roster.progress.items()
        if rollout.concerns(address)
        and address not in roster.lost
        and address not in roster.emptied
        and not (progress.rollout == rollout.id and progress.step == "done")
    )


def is_abandoned(rollout: Rollout, shared: Shared) -> bool:
    """True for a rollout of which no machine is left to end it: all are unbound, drained, or gone."""
    roster = shared.roster
    left = roster.progress.keys() - set(roster.gone) - set(roster.emptied)
    return rollout.state == "running" and not any(map(rollout.concerns, left))
