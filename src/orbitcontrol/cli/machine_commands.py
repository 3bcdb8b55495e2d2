"""``machine ADDRESS …``: emptying a machine, and forgetting one that does not come back."""

from __future__ import annotations

import asyncio
import time

import click

from orbitcontrol.cli.context import CommandContext, utc_now
from orbitcontrol.cli.framework import OrbitCommand
from orbitcontrol.cli.live_table import LiveTable
from orbitcontrol.cli.named_group import NamedGroup
from orbitcontrol.cli.rollout_following import (
    FAILED,
    NOT_FINISHED,
    detach_option,
    patience_of,
    timeout_option,
)
from orbitcontrol.cli.times import seconds
from orbitcontrol.codec.times import in_utc
from orbitcontrol.errors import StoreError
from orbitcontrol.model.rollouts import MachineDrain
from orbitcontrol.ops import draining, forgetting
from orbitcontrol.ops.draining import Emptying
from orbitcontrol.ports import Store

_ADDRESS = "orbitcontrol.machine"
_AFTER_DEADLINE = 60.0
"""Seconds to wait beyond the deadline: it ends the sessions, and then the containers stop."""

_EXAMPLES = """\b
Examples:
  orbitctl machine 10.0.0.5 drain                 take everything out of rotation, then stop it
  orbitctl machine 10.0.0.5 drain --deadline 10m  end sessions that take longer
  orbitctl machine 10.0.0.5 undrain               run it all again
  orbitctl machine 10.0.0.5 forget                it does not come back
"""


@click.group(cls=NamedGroup, epilog=_EXAMPLES, subcommand_metavar="COMMAND …")
@click.argument("address")
@click.pass_context
def machine(context: click.Context, address: str) -> None:
    """Empty a machine, or forget one that is gone. `orbitctl machines` lists them."""
    context.meta[_ADDRESS] = address


@machine.command(cls=OrbitCommand)
@click.option("--deadline", metavar="TIME", help="after which sessions are ended (default: never)")
@detach_option
@timeout_option
@click.pass_context
def drain(context: click.Context, *, deadline: str | None, detach: bool, timeout: str | None) -> int:
    """Take every endpoint of the machine out of rotation, then stop its containers.

    Each load balancer confirms before anything stops, and no service loses more machines at once than
    its MaxParallel. The machine stays empty until `undrain`, also when it starts again. Ends with 4 when
    it is not empty after --timeout, or a minute after the deadline.
    """
    command: CommandContext = context.obj
    address = context.meta[_ADDRESS]
    limit = None if deadline is None else seconds(deadline, flag="--deadline", least=0, most=604_800)
    patience = patience_of(timeout, detach=detach)
    if limit is not None and timeout is None and not detach:
        patience = limit + _AFTER_DEADLINE
    wanted = MachineDrain(
        deadline="" if limit is None else in_utc(time.time() + limit), user=command.user, since=utc_now()
    )

    async def work(store: Store) -> int:
        written = await draining.drain(store, command.keys, address, wanted)
        click.echo(f"machine {address}: {'is to be empty' if written else 'is drained already'}", err=True)
        return 0 if patience is None else await _follow(store, command, address, patience)

    return command.with_store(work)


@machine.command(cls=OrbitCommand)
@click.pass_context
def undrain(context: click.Context) -> None:
    """Let the machine run its services again."""
    command: CommandContext = context.obj
    address = context.meta[_ADDRESS]
    written = command.with_store(lambda store: draining.undrain(store, command.keys, address))
    said = "runs its services again" if written else "was not drained"
    click.echo(f"machine {address}: {said}", err=True)


@machine.command(cls=OrbitCommand)
@click.pass_context
def forget(context: click.Context) -> int:
    """Remove what a machine that does not come back has left, so that nobody waits for it.

    It must be off. One that is only cut off may still have containers that serve, or route to those of
    others: what it held is then given to others while it goes on.
    """
    command: CommandContext = context.obj
    address = context.meta[_ADDRESS]
    if command.interactive and not command.yes:
        question = f"Nobody waits for {address} any more after this. Is the machine off?"
        if not click.confirm(question, err=True):
            click.echo("Nothing was removed.", err=True)
            return 1
    found = command.with_store(lambda store: forgetting.forget(store, command.keys, address))
    click.echo(f"machine {address} is forgotten. Removed:", err=True)
    for what in found.removed:
        click.echo(f"  {what}", err=True)
    for service in found.own_revisions:
        click.echo(
            f"Its own revision of {service} stays, for a machine that takes its address: "
            f"`orbitctl service {service} unset revision on machine {address}` takes it back.",
            err=True,
        )
    return 0


async def _follow(store: Store, command: CommandContext, address: str, patience: float) -> int:
    """Shows what is left until nothing is; the exit code."""
    table, told = LiveTable(), ""

    def tell(emptying: Emptying) -> None:
        nonlocal told
        told = ""
        waits = [f"  waits: {line}" for line in emptying.waits]
        table.show([*(f"  {line}" for line in emptying.left), *waits])

    def trouble(error: StoreError) -> None:
        nonlocal told
        if str(error) != told:
            told = str(error)
            table.note(told)

    try:
        last = await draining.follow_drain(
            store, command.keys, address, timeout=patience, tell=tell, trouble=trouble
        )
    except asyncio.CancelledError:
        table.note(f"machine {address}: goes on draining: `orbitctl machines` shows it")
        raise
    if last.lifted:
        click.echo(f"machine {address}: somebody has undrained it meanwhile", err=True)
        return FAILED
    if last.is_over:
        click.echo(f"machine {address}: is empty", err=True)
        return 0
    whom = f"; it waits for: {'; '.join(last.waits)}" if last.waits else ""
    click.echo(f"machine {address}: not empty after {patience:g} s: {', '.join(last.left)}{whom}", err=True)
    click.echo(f"It goes on by itself; `orbitctl machine {address} drain` follows it again.", err=True)
    return NOT_FINISHED
