"""Following a rollout at a terminal or in a log, what is said at its end, and the exit code.

0 done; 1 failed; 3 failed and rolled back; 4 not finished when the time was over, or paused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import click

from orbitcontrol.cli.context import CommandContext
from orbitcontrol.cli.live_table import LiveTable
from orbitcontrol.cli.times import seconds
from orbitcontrol.errors import StoreError, UsageError
from orbitcontrol.model.rollouts import Aim, Rollout
from orbitcontrol.ops.following import Followed, Telling, follow
from orbitcontrol.planning.rollout_records import reverts
from orbitcontrol.planning.rollout_sight import End, MachineStep, Sight, is_canary
from orbitcontrol.ports import Store

FAILED = 1
ROLLED_BACK = 3
NOT_FINISHED = 4

_SETTLED = 1.0
"""Seconds that somebody must have been waited for to be told of: most confirm within milliseconds."""

detach_option = click.option("--detach", is_flag=True, help="do not follow it")
timeout_option = click.option("--timeout", metavar="TIME", help="how long to follow it (default: 10m)")


def patience_of(timeout: str | None, *, detach: bool) -> float | None:
    """Seconds to follow; None with ``--detach``. Raises ``UsageError`` for what is no time, and for both."""
    if detach and timeout is not None:
        raise UsageError("--timeout: with --detach nothing is followed")
    if detach:
        return None
    return seconds(timeout or "10m", flag="--timeout", least=0, most=86_400)


def revision_text(revision: str | None) -> str:
    """A revision as it is spoken of; the tree's own tag has no name in the store."""
    return f"revision {revision}" if revision is not None else "the tree's revision"


def subject(rollout: Rollout) -> str:
    """What a rollout is about, for people."""
    match rollout.cause:
        case "revision":
            return revision_text(rollout.target.revision)
        case "configuration":
            return f"the configuration of generation {rollout.target.generation}"
        case "relaunch":
            return "the relaunch"


async def follow_rollout(
    store: Store,
    context: CommandContext,
    service: str,
    rollout: Rollout,
    *,
    participants: Sequence[str],
    timeout: float,
) -> int:
    """Shows what the machines do until the rollout is over; the exit code."""
    name = f"service {service}"
    if not participants:
        nobody = f"no machine that is alive runs this service{_there(rollout)}, or those that do are drained"
        click.echo(f"{name}: {nobody}", err=True)
        return 0
    screen = RolloutScreen()
    telling = Telling(sight=screen.show, trouble=screen.trouble)
    try:
        followed = await follow(store, context.keys, service, rollout, timeout=timeout, telling=telling)
    except asyncio.CancelledError:
        screen.note(
            f"{name}: {subject(rollout)} goes on by itself: `orbitctl service {service}` shows it, "
            "`orbitctl status --watch` follows it"
        )
        raise
    if followed.end is None:
        return _out_of_time(name, service, followed.sight, participants, timeout)
    return _concluded(name, service, rollout, followed)


def _there(rollout: Rollout) -> str:
    return f" on {', '.join(rollout.machines)}" if isinstance(rollout.machines, tuple) else ""


class RolloutScreen:
    """The machines of a rollout and whom it waits for, as they change."""

    def __init__(self) -> None:
        self._table = LiveTable()
        self._since: dict[str, float] = {}
        self._state = ""
        self._trouble = ""

    def show(self, sight: Sight) -> None:
        """Shows what has changed."""
        self._trouble = ""
        news = _way_back(sight.rollout)
        if news and news != self._state:
            self._table.note(news)
        self._state = news
        now = time.monotonic()
        self._since = {line: self._since.get(line, now) for line in sight.waits}
        waits = [line for line, since in self._since.items() if now - since >= _SETTLED]
        steps = _open_first(sight.machines) if self._table.is_live else sight.machines
        self._table.show([*map(_line, steps), *(f"  waits: {line}" for line in waits)])

    def trouble(self, error: StoreError) -> None:
        """Says once that the store does not answer."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            self._table.note(f"{error}; the rollout goes on, and is followed when the store is back")

    def note(self, line: str) -> None:
        self._table.note(line)


def _line(step: MachineStep) -> str:
    reason = f": {step.reason}".replace("\n", " ") if step.reason else ""
    return f"  {step.machine}  {step.step}{reason}"


def _open_first(steps: Sequence[MachineStep]) -> list[MachineStep]:
    """Those that are not done first: a terminal has few lines."""
    return sorted(steps, key=lambda step: (step.step == "done", step.machine))


def _way_back(rollout: Rollout) -> str:
    """What is told while a rollout that failed goes back by itself."""
    if rollout.state == "failed" and reverts(rollout):
        return f"failed: {rollout.reason}; {_revision(rollout.previous)} comes back"
    if rollout.revert_of:
        reason = f", {rollout.reason}" if rollout.reason and rollout.state == "running" else ""
        return f"going back to {_revision(rollout.target)}{reason}"
    return ""


def _revision(aim: Aim | None) -> str:
    return revision_text(aim.revision if aim is not None else None)


def _concluded(name: str, service: str, rollout: Rollout, followed: Followed) -> int:
    end, record = followed.end, followed.sight.rollout
    assert end is not None  # noqa: S101 -- the caller has looked
    say: Callable[[str], None] = lambda text: click.echo(f"{name}: {text}", err=True)  # noqa: E731
    reason = f": {end.reason}" if end.reason else ""
    match end.kind:
        case "complete":
            say(f"{subject(rollout)} is done")
            return 0
        case "reverted":
            say(f"{subject(rollout)} failed{reason}; {_revision(record.target)} is back everywhere")
            return ROLLED_BACK
        case "paused":
            say(_paused(service, record, end))
            return NOT_FINISHED
        case "failed":
            say(f"{subject(rollout)} failed{reason}; {_after_failure(service, record)}")
        case "revert-failed":
            say(f"{subject(rollout)} failed, and so did going back{reason}")
        case "superseded":
            say(f"{subject(rollout)} was superseded by {_by(end.by)}")
        case "removed":
            say("its rollout is not in the store any more: somebody has removed it")
    return FAILED


def _paused(service: str, record: Rollout, end: End) -> str:
    command = f"`orbitctl service {service}"
    reason = f" ({end.reason})" if end.reason else ""
    if is_canary(record) and not end.reason.startswith("paused by "):
        first = f"paused after its first machines{reason}"
        return f"{first}: {command} promote` goes on, {command} rollback` goes back"
    return f"paused{reason}: {command} resume` goes on"


def _after_failure(service: str, record: Rollout) -> str:
    if record.cause == "configuration":
        return "mend the tree, or take its earlier state, and import again"
    return f"`orbitctl service {service}` shows what runs, `… rollback` goes back"


def _by(rollout: Rollout | None) -> str:
    if rollout is None:
        return "another one"
    by = f", begun by {rollout.user}" if rollout.user else ""
    return f"rollout {rollout.id}: {subject(rollout)}{by}"


def _out_of_time(name: str, service: str, sight: Sight, participants: Sequence[str], timeout: float) -> int:
    record = sight.rollout
    see = f"`orbitctl service {service}` shows it"
    if record.state == "failed":
        click.echo(f"{name}: failed: {record.reason}; no machine has gone back yet: {see}", err=True)
        return FAILED
    steps = {step.machine: step.step for step in sight.machines}
    late = [machine for machine in sorted({*participants, *steps}) if steps.get(machine) != "done"]
    left = f", {', '.join(late)} left" if late else ""
    click.echo(f"{name}: not done after {timeout:g} s{left}; it goes on by itself: {see}", err=True)
    return NOT_FINISHED
