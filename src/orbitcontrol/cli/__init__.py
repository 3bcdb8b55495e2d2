"""The command line: parses, calls ``ops`` or starts the daemon, prints.

Commands are imported only when they run, because ``--help`` and completion must be quick: the
table below holds all that a list of commands needs. Data goes to standard output, everything else
to standard error; exit codes are those of ``errors``.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

import click

from orbitcontrol import __version__
from orbitcontrol.cli.framework import LazyGroup, OrbitGroup
from orbitcontrol.errors import OrbitError

_TREE = "orbitcontrol.cli.tree_commands"
_IMPORT = "orbitcontrol.cli.import_commands"
_STATE = "orbitcontrol.cli.state_commands"

_COMMANDS = {
    "init": (_TREE, "init", "Write a small working tree to start from."),
    "validate": (_TREE, "validate", "Check a tree without a store: for git hooks and CI."),
    "schema": (_TREE, "schema", "Print the JSON Schema of the tree's files, for editors."),
    "plan": (_IMPORT, "plan", "Show what an import would change."),
    "import": (_IMPORT, "import_", "Put a tree into the store, all of it or nothing."),
    "export": (_TREE, "export", "Write the store's configuration as a tree."),
    "verify": (_TREE, "verify", "Compare the store with a tree and name every difference."),
    "recover": ("orbitcontrol.cli.recover_command", "recover", "Restore revisions after a lost store."),
    "daemon": ("orbitcontrol.cli.daemon_command", "daemon", "Run this machine's agent."),
    "service": ("orbitcontrol.cli.service_commands", "service", "Show services, set their revisions."),
    "endpoints": (_STATE, "endpoints", "List the healthy endpoints of all services or of one."),
    "tags": (_STATE, "tags", "List the tags and what is bound to them."),
    "machine": ("orbitcontrol.cli.machine_commands", "machine", "Drain a machine, or forget one."),
    "machines": (_STATE, "machines", "List the machines."),
    "why": ("orbitcontrol.cli.why_command", "why", "Show the way of an endpoint's last change."),
    "doctor": ("orbitcontrol.cli.doctor_command", "doctor", "Check that all the daemon needs is here."),
    "status": (_STATE, "status", "Show the whole cluster on one screen, and what is wrong."),
}


CLOSED_PIPE = 141
"""As if the signal SIGPIPE had ended the process: 0 and 1 already have a meaning in ``plan``."""

_RARELY = 100_000
"""Objects between two searches for cycles. A command keeps nearly all that it makes, and ends: to search
as often as Python does by itself took a twentieth of an import. The daemon goes back to that."""

_HELP = {"help_option_names": ["-h", "--help"]}


@click.group(cls=OrbitGroup, lazy=LazyGroup(_COMMANDS), context_settings=_HELP)
@click.version_option(__version__, prog_name="orbitctl", message="%(prog)s %(version)s")
def cli() -> None:
    """Run containers on tagged machines, check them, and keep HAProxy routing to them.

    A directory of JSON files in git says what should run; `orbitctl import` puts it into the
    store; `orbitctl daemon` on each machine makes it so.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """The program ``orbitctl``. Ends the process with one of the exit codes of ``errors``."""
    gc.set_threshold(_RARELY)
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Runs one command; its exit code. Prints what went wrong to standard error."""
    try:
        result = cli.main(args=arguments, prog_name="orbitctl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("orbitctl: interrupted", err=True)
        return 130
    except SystemExit:  # what click makes of a pipe whose reader has gone, as in `orbitctl plan DIR | head`
        return CLOSED_PIPE
    except Exception as error:  # noqa: BLE001 -- the last line of defence before a person sees a traceback
        return _explain(error, arguments)
    return result if isinstance(result, int) else 0


def _explain(error: Exception, arguments: Sequence[str]) -> int:
    """Prints an error for a person; the exit code it ends the command with."""
    if "--debug" in arguments or os.environ.get("ORBITCTL_DEBUG", "") not in {"", "0"}:
        import traceback  # noqa: PLC0415 -- only faults need it

        traceback.print_exception(error)
    match error:
        case OrbitError():
            message = str(error)
        case OSError(filename=None):
            message = f"cannot go on: {error.strerror or error}"
        case OSError():
            message = f"{error.filename}: {error.strerror}"
        case _:
            message = f"unexpected {type(error).__name__}: {error}\n--debug shows where."
    click.echo(f"orbitctl: {message}", err=True)
    return error.exit_code if isinstance(error, OrbitError) else 1
