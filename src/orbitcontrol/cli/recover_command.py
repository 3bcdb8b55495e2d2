"""``recover``: what the fleet runs against what a lost store says, and the way back."""

from __future__ import annotations

import click
import msgspec

from orbitcontrol.cli.context import CommandContext, utc_now
from orbitcontrol.cli.framework import OrbitCommand
from orbitcontrol.cli.output import Column, emit_value, output_option, table
from orbitcontrol.errors import OrbitError
from orbitcontrol.ops.recovering import Recovery, chosen, restore, survey
from orbitcontrol.planning.recovery import Restoration
from orbitcontrol.ports import Store

_COLUMNS = (
    Column("SERVICE", lambda one: one.service),
    Column("MACHINE", lambda one: one.machine or "all"),
    Column("REVISION TO RESTORE", lambda one: one.revision or "the tree's"),
    Column("ALSO RUNNING", lambda one: one.others),
)


class ShownRestoration(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A revision to write back; ``machine`` is "" for the whole service."""

    service: str
    machine: str
    revision: str | None
    others: tuple[str, ...]


class Shown(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The record that ``recover`` prints as JSON."""

    restorations: list[ShownRestoration]
    holding: dict[str, str]
    absent: tuple[str, ...]


@click.command(cls=OrbitCommand)
@click.option("--write", is_flag=True, help="write the revisions back and end the holding")
@output_option
@click.pass_obj
def recover(context: CommandContext, /, *, write: bool, output: str) -> None:
    """After a lost store: compare what the fleet runs with it, restore the revisions, end the holding."""

    async def work(store: Store) -> None:
        recovery = await survey(store, context.keys)
        if output in {"json", "yaml"}:
            emit_value(_shown(recovery), output=output)
        else:
            _show(recovery)
        if not write or not recovery.is_needed:
            return
        decided = chosen(recovery, [_decided(one, context) for one in recovery.restorations])
        await restore(store, context.keys, decided, user=context.user, time=utc_now())
        click.echo("revisions written back, the holding ends", err=True)

    context.with_store(work)


def _shown(recovery: Recovery) -> Shown:
    return Shown(
        restorations=[
            ShownRestoration(
                service=one.service, machine=one.machine, revision=one.revision, others=one.others
            )
            for one in recovery.restorations
        ],
        holding=recovery.holding,
        absent=recovery.absent,
    )


def _show(recovery: Recovery) -> None:
    if recovery.restorations:
        click.echo(table(recovery.restorations, _COLUMNS))
    for address, reason in sorted(recovery.holding.items()):
        click.echo(f"{address} holds: {reason}", err=True)
    for address in recovery.absent:
        click.echo(f"{address} has no lease and was not heard", err=True)
    if not recovery.is_needed:
        click.echo("the fleet and the store agree: nothing to recover", err=True)
    elif not recovery.restorations:
        click.echo("no revision is missing; --write ends the holding", err=True)


def _decided(one: Restoration, context: CommandContext) -> Restoration:
    """The restoration with a person's choice where the fleet disagrees."""
    if not one.others or context.yes:
        return one
    options = [one.revision or "the tree's", *one.others]
    if not context.interactive:
        raise OrbitError(
            f"service {one.service}: the fleet runs {', '.join(options)}; nothing was written. "
            "Choose at a terminal, or take the newest with --yes"
        )
    picked = click.prompt(
        f"service {one.service}: which revision", type=click.Choice(options), default=options[0], err=True
    )
    return one if picked == options[0] else msgspec.structs.replace(one, revision=picked)
