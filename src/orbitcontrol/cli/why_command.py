"""``why``: the way of an endpoint's last change."""

from __future__ import annotations

import click

from orbitcontrol.cli.context import CommandContext
from orbitcontrol.cli.framework import OrbitCommand
from orbitcontrol.cli.output import Column, emit_value, output_option, table
from orbitcontrol.ops.why import why as find_way
from orbitcontrol.planning.ways import Way

_COLUMNS = (
    Column("TIME", lambda step: step.at),
    Column("MS", lambda step: step.milliseconds if step.at else ""),
    Column("MACHINE", lambda step: step.machine),
    Column("STEP", lambda step: step.step),
    Column("STORE REVISION", lambda step: step.revision or ""),
    Column("REASON", lambda step: step.reason.replace("\n", " ")),
)


@click.command(cls=OrbitCommand)
@click.argument("endpoint")
@output_option
@click.pass_obj
def why(context: CommandContext, endpoint: str, output: str) -> None:
    """Show the way of the last change of ENDPOINT: check, store, each load balancer, with times.

    ENDPOINT is host:port, or service-host:port as `endpoints` and HAProxy name it. Steps are in the order
    in which one causes the next; each time is by the clock of its machine.
    """
    way = context.with_store(lambda store: find_way(store, context.keys, endpoint))
    if output in {"json", "yaml"}:
        emit_value(way, output=output)
    else:
        _print_way(way)


def _print_way(way: Way) -> None:
    click.echo(f"{way.service}-{way.endpoint}: {way.state or 'not published'}")
    if way.steps:
        click.echo("\n" + table(way.steps, _COLUMNS))
    else:
        click.echo("no machine has a word of its last change any more", err=True)
