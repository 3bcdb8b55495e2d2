"""``import --wait``: shows machine by machine what becomes of an import.

While it waits, each machine gets a line on standard error whenever there is something new about it. The
table at the end goes to standard output: that is what was asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import click
from msgspec import Struct

from orbitcontrol.cli.context import CommandContext
from orbitcontrol.cli.output import Column, table
from orbitcontrol.model.state import ConfigMeta
from orbitcontrol.ops.awaiting import Awaited, verdicts_now, wait_for_containers, wait_for_verdicts
from orbitcontrol.ops.importing import ImportResult, PlannedImport
from orbitcontrol.planning.awaited_rollouts import ServiceVerdict
from orbitcontrol.planning.verdicts import MachineVerdict, Question
from orbitcontrol.ports import Store
from orbitcontrol.tree.load import LoadedTree

REJECTED = 1
NOT_FINISHED = 4

_COLUMNS = (
    Column("MACHINE", lambda verdict: verdict.machine),
    Column("STATE", lambda verdict: verdict.state),
    Column("GENERATION", lambda verdict: verdict.generation),
    Column("REASON", lambda verdict: verdict.reason.replace("\n", " ")),
)
_SERVICE_COLUMNS = (
    Column("SERVICE", lambda verdict: verdict.service),
    Column("CONTAINERS", lambda verdict: verdict.state),
    Column("ROLLOUT", lambda verdict: verdict.rollout),
    Column("REASON", lambda verdict: verdict.reason.replace("\n", " ")),
)


class Wait(Struct, frozen=True, kw_only=True):
    """What is waited for, and how many seconds; ``changed`` is false when all that is to be said was said."""

    awaited: Awaited
    timeout: float
    changed: bool


def wait_of(tree: LoadedTree, planned: PlannedImport, result: ImportResult, *, timeout: float) -> Wait:
    """What to wait for after an import of ``tree``: the machines that it touches.

    All machines are asked when it finished what another import had begun, which may touch others, and,
    without waiting, when it changed nothing.
    """
    tags = tree.configuration.tags.values()
    finished = planned.stored.redo is not None
    touched = tuple(machine.address for machine in planned.impact.machines)
    everybody = tuple(sorted(planned.stored.machines))
    return Wait(
        awaited=Awaited(
            question=Question(
                epoch=result.meta.epoch,
                generation=result.meta.generation,
                balancing=frozenset(tag.name for tag in tags if tag.template is not None),
            ),
            machines=touched if result.written and not finished else everybody,
            touched={
                machine.address: tuple(machine.containers)
                for machine in planned.impact.machines
                if machine.containers and result.written
            },
        ),
        timeout=timeout,
        changed=result.written or finished,
    )


class WaitOutcome(Struct, frozen=True, kw_only=True):
    """What the machines said, and what became of the services whose containers changed."""

    machines: tuple[MachineVerdict, ...] = ()
    services: tuple[ServiceVerdict, ...] = ()


async def wait_for(store: Store, context: CommandContext, wait: Wait) -> WaitOutcome:
    """Waits for the machines, and with the time that is left for their containers."""
    deadline = time.monotonic() + wait.timeout
    machines = await _verdicts_of(store, context, wait)
    services = await _containers_of(store, context, wait, deadline=deadline)
    return WaitOutcome(machines=machines, services=services)


async def _verdicts_of(store: Store, context: CommandContext, wait: Wait) -> tuple[MachineVerdict, ...]:
    """What the machines say in the end; on the way there, what is new, on standard error."""
    machines = wait.awaited.machines
    if not machines:
        click.echo("No machine is known that has to say anything about it.", err=True)
        return ()
    if not wait.changed:
        return await verdicts_now(store, context.keys, wait.awaited)
    count = "1 machine" if len(machines) == 1 else f"{len(machines)} machines"
    click.echo(f"Waiting for {count}, at most {wait.timeout:g} s.", err=True)
    try:
        return await wait_for_verdicts(
            store, context.keys, wait.awaited, timeout=wait.timeout, tell=_print_news
        )
    except asyncio.CancelledError:
        generation = wait.awaited.question.generation
        click.echo(f"Generation {generation} stays imported and goes on by itself: {_SEE}", err=True)
        raise


async def _containers_of(
    store: Store, context: CommandContext, wait: Wait, *, deadline: float
) -> tuple[ServiceVerdict, ...]:
    """What becomes of the containers that the import changes."""
    if not wait.awaited.touched:
        return ()
    left = max(deadline - time.monotonic(), 0)
    try:
        return await wait_for_containers(
            store, context.keys, wait.awaited, timeout=left, tell=_print_container_news
        )
    except asyncio.CancelledError:
        click.echo("The rollouts go on by themselves: `orbitctl status --watch` follows them", err=True)
        raise


def _print_container_news(verdict: ServiceVerdict) -> None:
    rollout = f" (rollout {verdict.rollout})" if verdict.rollout else ""
    reason = f": {verdict.reason}" if verdict.reason else ""
    click.echo(f"  service {verdict.service}  {verdict.state}{rollout}{reason}", err=True)


def print_outcome(outcome: WaitOutcome) -> None:
    """The table of all machines, and that of the services whose containers changed."""
    if outcome.machines:
        click.echo(table(outcome.machines, _COLUMNS))
    if outcome.services:
        click.echo("\n" + table(outcome.services, _SERVICE_COLUMNS))


def concluded(outcome: WaitOutcome, meta: ConfigMeta) -> int:
    """The exit code; what is not as it should be, and how to go on, is told on standard error."""
    codes = {_of_machines(outcome.machines, meta), _of_services(outcome.services)}
    return REJECTED if REJECTED in codes else max(codes)


def _of_services(services: Sequence[ServiceVerdict]) -> int:
    states = [verdict.state for verdict in services]
    failed = [verdict.service for verdict in services if verdict.state == "failed"]
    for name in failed:
        click.echo(
            f"The rollout of {name} failed; it stopped there. Mend the tree, or take its earlier state, "
            "and import again.",
            err=True,
        )
    for verdict in services:
        if verdict.state == "paused":
            name = verdict.service
            click.echo(
                f"The rollout of {name} is paused: `orbitctl service {name} promote` lets a canary go on, "
                f"`… resume` one that people have paused.",
                err=True,
            )
    if "pending" in states:
        click.echo(
            "Containers are still being replaced; that goes on by itself: see `orbitctl status`", err=True
        )
    if failed:
        return REJECTED
    return NOT_FINISHED if set(states) - {"done"} else 0


def _of_machines(verdicts: Sequence[MachineVerdict], meta: ConfigMeta) -> int:
    states = [verdict.state for verdict in verdicts]
    if states.count("accepted") == len(states):
        return 0
    open_ends = [state for state in ("rejected", "pending", "unreachable") if state in states]
    counts = ", ".join(f"{states.count(state)} {state}" for state in open_ends)
    click.echo(f"Generation {meta.generation} is in the store, and stays: {counts}.", err=True)
    if "rejected" in states:
        advice = "Who rejects it goes on with what it had. Mend the tree or the machine, and import again."
        click.echo(advice, err=True)
        return REJECTED
    click.echo(f"They go on by themselves as soon as they can: {_SEE}", err=True)
    return NOT_FINISHED


_SEE = "see `orbitctl machines`; the same import again shows their answers"


def _print_news(verdict: MachineVerdict) -> None:
    reason = f": {verdict.reason}" if verdict.reason else ""
    click.echo(f"  {verdict.machine}  {verdict.state}{reason}", err=True)
