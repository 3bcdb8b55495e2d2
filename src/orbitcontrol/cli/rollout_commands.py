"""``service NAME …``: what is done with rollouts beside setting a revision.

Each begins or changes a rollout and follows it, unless it is told not to.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from functools import partial

import click

from orbitcontrol.cli.context import CommandContext, utc_now
from orbitcontrol.cli.framework import OrbitCommand
from orbitcontrol.cli.output import Column, emit, output_option
from orbitcontrol.cli.rollout_following import (
    detach_option,
    follow_rollout,
    patience_of,
    revision_text,
    timeout_option,
)
from orbitcontrol.cli.rollout_words import cause, what
from orbitcontrol.cli.times import length
from orbitcontrol.ops import rollouts
from orbitcontrol.ops.deployed import Act
from orbitcontrol.ops.deploying import Change, Outcome, set_revision
from orbitcontrol.ports import Store

SERVICE = "orbitcontrol.service"
"""Where the group leaves the name of the service."""


_COLUMNS = (
    Column("ID", lambda view: view.id),
    Column("STARTED", lambda view: view.started),
    Column("TOOK", lambda view: length(view.seconds) if view.ended else ""),
    Column("WHO", lambda view: view.user),
    Column("CAUSE", cause),
    Column("WHAT", what),
    Column("OUTCOME", lambda view: view.outcome),
    Column("REASON", lambda view: view.reason.replace("\n", " ")),
    Column("MACHINES", lambda view: view.machines, wide=True),
    Column("GENERATION", lambda view: view.generation, wide=True),
)


def act_of(context: click.Context) -> Act:
    """Who does what to the service that the group was given."""
    command: CommandContext = context.obj
    return Act(service=context.meta[SERVICE], id=secrets.token_hex(4), user=command.user, time=utc_now())


def acted(
    command: CommandContext,
    act: Act,
    do: Callable[[Store], Awaitable[Outcome]],
    *,
    said: str,
    said_already: str,
    patience: float | None,
) -> int:
    """Does it, says what was done and follows the rollout for ``patience`` seconds; the exit code."""

    async def work(store: Store) -> int:
        outcome = await do(store)
        click.echo(f"service {act.service}: {said if outcome.written else said_already}", err=True)
        if patience is None or outcome.rollout is None:
            return 0
        return await follow_rollout(
            store,
            command,
            act.service,
            outcome.rollout,
            participants=outcome.participants,
            timeout=patience,
        )

    return command.with_store(work)


@click.command(cls=OrbitCommand)
@click.argument("revision", required=False, metavar="[REV]")
@detach_option
@timeout_option
@click.pass_context
def rollback(context: click.Context, revision: str | None, *, detach: bool, timeout: str | None) -> int:
    """Go back to REV; without it to the last revision that was completed before the present one."""
    command: CommandContext = context.obj
    act = act_of(context)
    patience = patience_of(timeout, detach=detach)

    async def change_of(store: Store) -> Change:
        if revision is None:
            return await rollouts.way_back(store, command.keys, act)
        return Change(
            service=act.service, id=act.id, user=act.user, time=act.time, revision=revision, machine=None
        )

    change = command.with_store(change_of)
    where = f" on machine {change.machine}" if change.machine else ""
    target = f"{revision_text(change.revision)}{where}"
    return acted(
        command,
        act,
        lambda store: set_revision(store, command.keys, change),
        said=f"back to {target}",
        said_already=f"{target} was set already",
        patience=patience,
    )


@click.command(cls=OrbitCommand)
@output_option
@click.pass_context
def history(context: click.Context, output: str) -> None:
    """List the rollouts, the newest first: who, when, what, and what became of it."""
    command: CommandContext = context.obj
    name = context.meta[SERVICE]
    views = command.with_store(lambda store: rollouts.read_history(store, command.keys, name))
    emit(views, _COLUMNS, output=output, empty=f"service {name} has had no rollout yet")


@click.command(cls=OrbitCommand)
@click.pass_context
def pause(context: click.Context) -> int:
    """Begin on no further machine until it is resumed; what has begun is finished."""
    command: CommandContext = context.obj
    act = act_of(context)
    return acted(
        command,
        act,
        lambda store: rollouts.pause(store, command.keys, act),
        said=f"paused; `orbitctl service {act.service} resume` goes on",
        said_already="is paused already",
        patience=None,
    )


def _going_on(
    name: str, help: str, do: Callable[..., Awaitable[Outcome]], said: str, already: str
) -> click.Command:
    """A command that lets a rollout go on, or begins one, and follows it."""

    @click.command(cls=OrbitCommand, name=name, help=help)
    @detach_option
    @timeout_option
    @click.pass_context
    def command(context: click.Context, *, detach: bool, timeout: str | None) -> int:
        given: CommandContext = context.obj
        act = act_of(context)
        patience = patience_of(timeout, detach=detach)
        work = partial(do, keys=given.keys, act=act)
        return acted(given, act, work, said=said, said_already=already, patience=patience)

    return command


resume = _going_on("resume", "Let a paused rollout go on.", rollouts.resume, "goes on", "goes on already")
promote = _going_on(
    "promote",
    "Let a canary go on to all machines.",
    rollouts.promote,
    "promoted: goes on to all machines",
    "was promoted already",
)
relaunch = _going_on(
    "relaunch",
    "Replace every container by a new one, of the same revision and configuration.",
    rollouts.relaunch,
    "relaunch begun",
    "relaunch begun",
)
