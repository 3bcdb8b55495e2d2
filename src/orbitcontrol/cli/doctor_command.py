"""``doctor``: whether everything is here that the daemon needs."""

from __future__ import annotations

import asyncio

import click

from orbitcontrol.cli.context import CommandContext
from orbitcontrol.cli.daemon_options import daemon_options, daemon_settings
from orbitcontrol.cli.framework import OrbitCommand
from orbitcontrol.cli.output import emit_value, output_option
from orbitcontrol.ops.doctor import Diagnosis, Patient, examine


@click.command(cls=OrbitCommand)
@daemon_options
@output_option
@click.pass_obj
def doctor(context: CommandContext, /, output: str, **options: str) -> int:
    """Look at all that the daemon needs here: give it the daemon's own options or settings file."""
    settings = daemon_settings(
        context, {**options, "machine_address": options["machine_address"] or "127.0.0.1"}
    )
    patient = Patient(
        address=settings.machine.address,
        listen=(settings.listen_host, settings.listen_port),
        state_dir=settings.state_dir,
        port_range=settings.port_range,
        docker_host=settings.docker_host,
        haproxy=settings.haproxy,
    )
    found = asyncio.run(examine(patient, context.open_store, context.keys))
    if output in {"json", "yaml"}:
        emit_value(found, output=output)
    else:
        for one in found:
            _print(one)
    return 1 if any(one.state == "failed" for one in found) else 0


def _print(one: Diagnosis) -> None:
    """A line for what was found, and one below it for what to do."""
    click.echo(f"{one.state:<8} {one.subject}: {' '.join(one.finding.split())}")
    if one.advice:
        click.echo(f"{'':<8} → {one.advice}")
