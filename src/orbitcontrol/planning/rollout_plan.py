"""The next step of one machine for one service. The protocol is told in ``planning.rollouts``."""

from __future__ import annotations

from msgspec import structs

from orbitcontrol.model.rollouts import Progress, Rollout
from orbitcontrol.planning.container_specs import OwnContainer, is_kept
from orbitcontrol.planning.rollout_aims import (
    active,
    aim_of,
    alive,
    digest_of,
    has_failed,
    is_done,
    is_settled,
    outdated,
)
from orbitcontrol.planning.rollout_directives import as_marked, drains, held_back
from orbitcontrol.planning.rollout_replacement import Move, Replacement, replace
from orbitcontrol.planning.rollout_steps import (
    Action,
    Advance,
    Begin,
    Claim,
    Complete,
    Evict,
    Expel,
    Fail,
    Pause,
    Plan,
    Release,
    Remove,
    Report,
    Rest,
    Settle,
    Stop,
    Take,
    Wait,
)
from orbitcontrol.planning.rollout_turns import (
    canary_full,
    canary_over,
    free_slot,
    is_abandoned,
    may_go_out,
    owing,
)
from orbitcontrol.planning.rollout_words import canary_words, why_changed
from orbitcontrol.planning.rollouts import PROGRESS_DEADLINE, Held, Local, Memory, Shared, is_up, telling

_MOVES = ("running", "complete")
"""States of a rollout in which machines take slots for it; complete: late ones."""

_UNREAD = "a newer rollout is about to be read"

_WORDS_PAUSE = 0.3
"""Seconds after a write to the slot in which other words for the same step are not worth a write: most of
what a holder waits for is over sooner, and the write would stand in its way."""


def plan(local: Local, shared: Shared, memory: Memory, *, now: float) -> Plan:
    """What the machine does next for the service; ``now`` is the clock of ``memory``."""
    mine = shared.held_by(local.address)
    if mine is not None:
        return _with_slot(mine, local, shared, memory, now)
    return _without_slot(local, shared, memory, now)


def _with_slot(mine: tuple[int, Held], local: Local, shared: Shared, memory: Memory, now: float) -> Plan:
    _, held = mine
    aim = aim_of(local, shared, in_slot=True)
    rollout = active(local, shared)
    before = _before_steps(local, shared, memory, now, mine=mine)
    if before is not None:
        directives = held_back(local) if now < memory.retry_at else as_marked(local)
        return Plan(action=before, aim=aim, directives=directives, in_hand=True)
    lenient = rollout is None or has_failed(local, rollout) or is_done(local)
    given = Replacement(
        local=local,
        shared=shared,
        memory=memory,
        now=now,
        aim=aim,
        policy=local.update if rollout is None or lenient else rollout.policy,
        rollout=rollout,
        lenient=lenient,
        reason=held.slot.reason,
    )
    step = replace(given)
    move = step or Move(_ended(given, held))
    action, directives = move.action, {**held_back(local), **move.directives}
    if held.slot.step == "waiting" and not isinstance(action, Release):
        action = _looked(local, shared, held, given, first=action)
    else:
        action = _in_step(action, held, local, memory, now)
    if isinstance(action, Release):
        directives = held_back(local)
    elif isinstance(action, Advance):  # a mark compares the slot, which is about to change
        directives = {run: one for run, one in directives.items() if one != "drain" or drains(local, run)}
    return Plan(action=action, aim=aim, directives=directives, in_hand=True, arrived=step is None)


def _before_steps(
    local: Local, shared: Shared, memory: Memory, now: float, *, mine: tuple[int, Held]
) -> Action | None:
    """What comes before the steps of a replacement; None when they can be taken."""
    number, held = mine
    rollout = active(local, shared)
    if held.slot.session != local.session:
        return Claim(number)
    if now < memory.retry_at:
        return _given_back(local)
    if rollout is None and _is_unread(local, shared):
        return Wait(step=held.slot.step, reason=_UNREAD)
    if _is_to_join(local, rollout):
        return Report(structs.replace(_progress(local, rollout), step=held.slot.step))
    return None


def _looked(local: Local, shared: Shared, held: Held, given: Replacement, *, first: Action) -> Action:
    """The look between taking a slot and the first step in it."""
    rollout = given.rollout
    blocked = may_go_out(local, shared, held)
    follows = local.bound and not local.emptied and not given.lenient
    if not blocked and rollout is not None and rollout.state not in _MOVES and follows:
        blocked = f"the rollout is {rollout.state}"
    if not blocked:
        return (
            Advance(first.step, first.reason)
            if isinstance(first, Wait)
            else Advance("starting", held.slot.reason)
        )
    if not local.bound:
        return Release(None)
    return Release(structs.replace(_progress(local, rollout), reason=blocked))


def _in_step(action: Action, held: Held, local: Local, memory: Memory, now: float) -> Action:
    """The action, once the slot and the progress tell of it, and the slot was compared a moment ago."""
    told = telling(local)
    match action:
        case Wait(step=step, reason=reason):
            if held.slot.step != step or (told is not None and told.step != step):
                return Advance(step, reason)
            if told is None or told.reason == reason:
                return action
            until = memory.compared + _WORDS_PAUSE
            if now >= until:
                return Advance(step, reason)
            return structs.replace(action, until=until if action.until is None else min(until, action.until))
        case Stop() if now - memory.compared > local.ttl / 2:
            return Advance(held.slot.step, told.reason if told is not None else "")
        case _:
            return action


def _without_slot(local: Local, shared: Shared, memory: Memory, now: float) -> Plan:
    aim = aim_of(local, shared, in_slot=False)
    rollout = active(local, shared)
    action = (
        _unwanted(local, shared, memory, now)
        if not local.bound or local.emptied
        else _wanted(local, shared, memory, rollout, now)
    )
    return Plan(action=action, aim=aim, directives=held_back(local))


def _unwanted(local: Local, shared: Shared, memory: Memory, now: float) -> Action:
    """Nothing of the service is to run here: what runs is stopped in a slot."""
    if not local.bound and local.progress is not None:
        return Report(None)
    serving = [run for run in local.processes if run in local.endpoints] if local.emptied else []
    if alive(local) or serving:
        reason = "the machine is to be drained" if local.emptied else "nothing wants it here any more"
        return _turn(local, shared, memory, now, reason=reason)
    if local.bound and (local.progress is None or not is_done(local)):
        return Report(Progress(step="done", reason="the machine is drained"))
    if local.bound and shared.rollout is not None and is_abandoned(shared.rollout, shared):
        return Complete()
    return Rest()


def _wanted(local: Local, shared: Shared, memory: Memory, rollout: Rollout | None, now: float) -> Action:
    """The service is to run here."""
    progress = local.progress
    action = _joined(local, shared, rollout)
    if action is None and progress is not None and progress.step == "failed":
        action = _gone_back(local, shared, memory, now)
    if action is None and is_done(local):
        action = _after_done(local, shared, memory, rollout, now)
    if action is None and not outdated(local, local.target):
        action = _first_start(local, rollout, memory, now)
    if action is None and _is_unread(local, shared):
        action = Wait(step="waiting", reason=_UNREAD)
    if action is None and (rollout is None or rollout.state not in _MOVES):
        action = _stopped(local, rollout)
    if action is None and rollout is not None:
        action = _prepared(local, shared, memory, rollout, now)
    return action or Rest()


def _stopped(local: Local, rollout: Rollout | None) -> Action:
    """Nothing goes on. What this machine has begun, and could not finish in its slot, goes back."""
    if rollout is None:
        return _told(local, rollout, Wait(step="waiting", reason="no rollout is under way"))
    if rollout.state == "failed" and local.settled is not None and outdated(local, local.settled):
        reason = "goes back, because the rollout has failed"
        return Report(structs.replace(_progress(local, rollout), step="failed", reason=reason))
    return _told(local, rollout, Wait(step="waiting", reason=f"the rollout is {rollout.state}"))


def _joined(local: Local, shared: Shared, rollout: Rollout | None) -> Action | None:
    """How this machine comes to take part in what is wanted of it; None when it does."""
    progress, olds = local.progress, outdated(local, local.target)
    if _is_to_join(local, rollout):
        if rollout is not None and rollout.state == "complete" and not olds and progress is not None:
            return None if progress.target == digest_of(local.target) else Report(_progress(local, rollout))
        return Report(_progress(local, rollout))
    if progress is not None and progress.target == digest_of(local.target):
        return None
    if not olds or all(own.run_id in local.condemned for own in olds):
        return Report(_progress(local, rollout))
    if _is_unread(local, shared):
        return Wait(step="waiting", reason=_UNREAD)
    return Begin("configuration", why_changed(local))


def _is_unread(local: Local, shared: Shared) -> bool:
    """True while the store has a rollout for this machine whose configuration it has not read yet.

    A machine that has failed needs not know it: it goes back in any case.
    """
    rollout = shared.rollout
    if rollout is None or not rollout.concerns(local.address) or not local.bound or local.emptied:
        return False
    return active(local, shared) is None and not has_failed(local, None)


def _is_to_join(local: Local, rollout: Rollout | None) -> bool:
    """True when there is a rollout for this machine that its progress does not speak of."""
    if rollout is None or not local.bound or local.emptied:
        return False
    return local.progress is None or local.progress.rollout != rollout.id


def _gone_back(local: Local, shared: Shared, memory: Memory, now: float) -> Action:
    """A machine that has failed: what it ran before runs, or is started; what did not prove itself goes."""
    settled = local.settled if local.settled is not None else local.target
    olds = outdated(local, settled)
    if olds and local.settled is not None:
        return _turn(local, shared, memory, now, reason="goes back after a failure")
    kept = _leftover(local) if alive(local) else None
    return Rest() if kept is None else Remove(kept, "its successor serves")


def _leftover(local: Local) -> OwnContainer | None:
    """A kept container that was forgotten, because the slot went before it."""
    return next((own for own in local.own if is_kept(own) and not own.alive), None)


def _after_done(local: Local, shared: Shared, memory: Memory, rollout: Rollout | None, now: float) -> Action:
    olds = outdated(local, local.target)
    if olds:
        condemned = any(own.run_id in local.condemned for own in olds)
        reason = "its checks keep failing" if condemned else "a container too many"
        return _turn(local, shared, memory, now, reason=reason)
    kept = _leftover(local)
    if kept is not None:
        return Remove(kept, "its successor serves")
    over = _over(shared, rollout)
    is_over = not _is_unread(local, shared) and (rollout is None or rollout.state == "complete")
    if over is None and is_over and not is_settled(local):
        return Settle()
    return over or Rest()


def _over(shared: Shared, rollout: Rollout | None) -> Action | None:
    """How the rollout ends, or pauses, as far as whoever is done can tell."""
    if shared.rollout is not None and is_abandoned(shared.rollout, shared):
        return Complete()
    if rollout is None or rollout.state != "running":
        return None
    if not owing(rollout, shared):
        return Complete()
    return Pause(canary_words(rollout, shared)) if canary_over(rollout, shared) else None


def _first_start(local: Local, rollout: Rollout | None, memory: Memory, now: float) -> Action:
    """Nothing has to be stopped here: whoever starts what is missing does so, and the rollout hears of it."""
    if _is_complete(local):
        return Report(structs.replace(_progress(local, rollout), step="done", reason=""))
    if rollout is None or rollout.state != "running":
        return Wait(step="verifying")
    deadline = rollout.policy.healthy_deadline
    over = memory.joined + (PROGRESS_DEADLINE if local.images else float(deadline))
    given_up = next((reason for reason in local.images.values() if reason), "")
    if not given_up and now < over:
        return _told(local, rollout, Wait(step="verifying", until=over))
    told = [*local.failures.values(), *(one.reason for one in local.health.values() if one.reason)]
    reason = given_up or f"not healthy within {deadline}: {next(iter(told), 'it does not run')}"
    newest = max(local.own, key=lambda own: own.container.started_at, default=None)
    return Fail(reason, newest.container.id if newest is not None else "")


def _is_complete(local: Local) -> bool:
    """True when every instance that is wanted runs, is healthy, and is published."""
    runs = {own.key: own.run_id for own in alive(local)}
    if not {one.key for one in local.target} <= runs.keys():
        return False
    return all(
        run in local.endpoints if local.has_endpoint else is_up(local.health.get(run))
        for run in runs.values()
    )


def _prepared(local: Local, shared: Shared, memory: Memory, rollout: Rollout, now: float) -> Action:
    """Everything that can be done before a slot is taken, then the slot."""
    missing = [one.image for one in local.target if one.image in local.images]
    if missing:
        given_up = local.images[missing[0]]
        if given_up or now - memory.joined >= PROGRESS_DEADLINE:
            return Fail(given_up or f"image {missing[0]} could not be pulled within {PROGRESS_DEADLINE:g} s")
        return _told(local, rollout, Wait(step="pulling", reason=f"pulls {missing[0]}"))
    if rollout.state == "running" and canary_over(rollout, shared):
        return Pause(canary_words(rollout, shared))
    if rollout.state == "running" and canary_full(rollout, shared):
        return _told(local, rollout, Wait(step="waiting", reason="the canary comes first"))
    return _turn(local, shared, memory, now, reason=why_changed(local))


def _turn(local: Local, shared: Shared, memory: Memory, now: float, *, reason: str) -> Action:
    """Takes a slot when it may, after whoever is proven gone has lost his."""
    for number, held in sorted(shared.slots.items()):
        if held.slot.machine in shared.roster.gone:
            return Evict(number)
    expelled = next((name for name in sorted(shared.roster.gone) if name in shared.roster.progress), None)
    if expelled is not None:
        return Expel(expelled)
    if now < memory.retry_at:
        told = local.progress.reason if local.progress is not None else ""
        return Wait(step="waiting", reason=told, until=memory.retry_at)
    rollout, free = active(local, shared), free_slot(local, shared)
    if free is None:
        return _told(local, rollout, Wait(step="waiting"))
    blocked = may_go_out(local, shared, None)
    if blocked:
        return _told(local, rollout, Wait(step="waiting", reason=blocked))
    return Take(free, reason)


def _told(local: Local, rollout: Rollout | None, wait: Wait) -> Action:
    """The wait, once this machine's progress tells of it."""
    told = telling(local)
    if told is None or (told.step, told.reason) == (wait.step, wait.reason):
        return wait
    return Report(structs.replace(_progress(local, rollout), step=wait.step, reason=wait.reason))


def _progress(local: Local, rollout: Rollout | None) -> Progress:
    """This machine's progress as it goes on in the rollout."""
    before = local.progress or Progress()
    digest = digest_of(local.target)
    same = before.target == digest and (rollout is None or before.rollout == rollout.id)
    return Progress(
        rollout=rollout.id if rollout is not None else before.rollout,
        step=before.step if same else "waiting",
        reason=before.reason if same else "",
        target=digest,
        replaced=same and before.replaced,
    )


def _ended(given: Replacement, held: Held) -> Action:
    """All is as aimed at: the slot is given back, after ``Stagger`` where another machine is to follow."""
    local, rollout, memory = given.local, given.rollout, given.memory
    if not local.bound:
        return Release(None)
    if local.emptied:
        return Release(Progress(step="done", reason="the machine is drained"))
    progress = _progress(local, rollout)
    if has_failed(local, rollout) or is_done(local):
        return Release(progress)
    others = set(owing(rollout, given.shared)) - {local.address} if rollout is not None else set()
    over = (given.now if memory.arrived is None else memory.arrived) + float(given.policy.stagger)
    if others and given.now < over and held.slot.step != "waiting":
        return Wait(step="verifying", reason="done; the next machine follows after Stagger", until=over)
    return Release(structs.replace(progress, step="done", reason="", replaced=True))


def _given_back(local: Local) -> Action:
    """The drain is taken back: when nothing drains any more, so is the slot."""
    if any(endpoint.state == "draining" for endpoint in local.endpoints.values()):
        return Wait(step="waiting", reason="the drain is taken back")
    if not local.bound:
        return Release(None)
    progress = local.progress or Progress()
    return Release(progress if telling(local) is None else structs.replace(progress, step="waiting"))
