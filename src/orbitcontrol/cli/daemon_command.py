"""``daemon``: this machine's agent."""

from __future__ import annotations

import gc

import click

from orbitcontrol.cli.context import CommandContext
from orbitcontrol.cli.daemon_options import daemon_options, daemon_settings
from orbitcontrol.cli.framework import OrbitCommand

_AS_PYTHON_DOES = (700, 10, 10)
"""How often garbage is looked for in a process that stays; commands do it more rarely."""


@click.command(cls=OrbitCommand)
@daemon_options
@click.pass_obj
def daemon(context: CommandContext, /, **options: str) -> int:
    """Run this machine's agent until SIGTERM; containers and HAProxy go on without it."""
    from orbitcontrol import log  # noqa: PLC0415 -- only the daemon logs
    from orbitcontrol.bootstrap import run_daemon  # noqa: PLC0415 -- many libraries

    gc.set_threshold(*_AS_PYTHON_DOES)
    settings = daemon_settings(context, options)
    log.configure(format=context.log_format, debug=context.debug)
    run_daemon(settings, context.open_store)
    return 0
