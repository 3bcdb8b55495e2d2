"""``plan`` and ``import``: a tree against the store.

Deploying waits for these, so what few of them need (verdicts of machines, output for programs) is
imported where it is used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orbitcontrol.cli.context import CommandContext, utc_now
from orbitcontrol.cli.framework import OrbitCommand
from orbitcontrol.cli.output import emit_value, output_option
from orbitcontrol.cli.times import seconds
from orbitcontrol.cli.trees import (
    DIFFERENT,
    allow_unknown_option,
    count_of,
    directory_argument,
    failing_with_2,
    haproxy_binary_option,
    judged,
    print_applying,
    sound,
)
from orbitcontrol.errors import UsageError
from orbitcontrol.ops import importing
from orbitcontrol.ops.importing import ImportResult, PlannedImport, Stamp
from orbitcontrol.planning.impact import Impact, MachineImpact
from orbitcontrol.planning.imports import ImportPlan
from orbitcontrol.ports import Store
from orbitcontrol.tree.load import LoadedTree, load

if TYPE_CHECKING:
    from orbitcontrol.cli.import_wait import WaitOutcome


@click.command(cls=OrbitCommand)
@directory_argument
@allow_unknown_option
@output_option
@click.pass_obj
def plan(context: CommandContext, directory: Path, *, allow_unknown: bool, output: str) -> int:
    """Show what importing the tree in DIR would change, and whom it would touch. Writes nothing.

    Values of variables, passwords, tokens and certificates are never shown. Ends with 0 when nothing
    would change, 1 when something would, 2 when it could not be told.
    """
    with failing_with_2():
        tree = sound(load(directory, allow_unknown=allow_unknown), directory)
        planned = context.with_store(
            lambda store: importing.plan(store, context.keys, tree.entries), may_create=True
        )
    if output in {"json", "yaml"}:
        from orbitcontrol.cli.import_output import shown_plan  # noqa: PLC0415 -- only who asks pays for it

        emit_value(shown_plan(planned), output=output)
    else:
        _print_plan(planned)
    return DIFFERENT if planned.is_needed else 0


@click.command(cls=OrbitCommand, name="import")
@directory_argument
@allow_unknown_option
@haproxy_binary_option
@click.option("--no-haproxy-check", is_flag=True, help="render the templates, but do not ask HAProxy")
@click.option("--wait", is_flag=True, help="until each touched machine has answered and done it")
@click.option("--timeout", metavar="TIME", help="how long --wait waits (default: 60s)")
@output_option
@click.pass_obj
def import_(
    context: CommandContext,
    directory: Path,
    *,
    allow_unknown: bool,
    haproxy_binary: str,
    no_haproxy_check: bool,
    wait: bool,
    timeout: str | None,
    output: str,
) -> int:
    """Put the tree in DIR into the store, all of it or nothing.

    The plan is shown first. When it removes something and a person is at the terminal, they are
    asked; --yes answers. Only what differs is written, and what is gone from the tree is removed.
    An earlier import that was interrupted is finished first if it was decided, else dropped.

    With --wait it ends with 0 when every touched machine has accepted and all containers that changed
    are replaced, with 1 when a machine has rejected or a rollout failed, with 4 when not all of it was
    over in time. Neither a rejection nor a failed rollout undoes the import.
    """
    if timeout is not None and not wait:
        raise UsageError("--timeout: only with --wait is there anything to wait for")
    patience = seconds(timeout or "60s", flag="--timeout", least=0, most=86_400)
    tree = load(directory, allow_unknown=allow_unknown)
    tree = sound(judged(tree, binary=haproxy_binary, ask_haproxy=not no_haproxy_check), directory)
    for_people = output not in {"json", "yaml"}

    async def session(store: Store) -> int:
        planned = await importing.plan(store, context.keys, tree.entries)
        _print_plan(planned, changes_to_stderr=not for_people)
        result = await _imported(store, context, planned, directory, tree)
        if result is None:
            return 1
        if not wait:
            _print_imported(planned, result, None, output=output)
            return 0
        from orbitcontrol.cli import import_wait  # noqa: PLC0415 -- only who waits pays for it

        awaited = import_wait.wait_of(tree, planned, result, timeout=patience)
        outcome = await import_wait.wait_for(store, context, awaited)
        _print_imported(planned, result, outcome, output=output)
        return import_wait.concluded(outcome, result.meta)

    return context.with_store(session, may_create=True)


async def _imported(
    store: Store, context: CommandContext, planned: PlannedImport, directory: Path, tree: LoadedTree
) -> ImportResult | None:
    """Does the import, if there is anything to do; None when the person at the terminal says no."""
    present = planned.stored.meta
    if present is not None and not planned.is_needed and not planned.tidies:
        return ImportResult(meta=present, written=False)
    if planned.plan.removes and context.interactive and not context.yes:
        question = f"This removes {count_of(len(planned.plan.removes), 'entry', 'entries')}. Import?"
        if not click.confirm(question, err=True):
            click.echo("Nothing was written.", err=True)
            return None
    from orbitcontrol.ops.source import source_of  # noqa: PLC0415 -- an import without changes asks no git

    stamp = Stamp(
        now=utc_now(),
        user=context.user,
        epoch=os.urandom(16).hex(),
        import_id=os.urandom(8).hex(),
        source=source_of(directory, tree.entries),
    )
    result = await importing.apply(store, context.keys, planned, stamp)
    _print_result(planned, result)
    return result


def _print_imported(
    planned: PlannedImport, result: ImportResult, outcome: WaitOutcome | None, *, output: str
) -> None:
    """What is asked for on standard output: for people what they waited for, if they did."""
    if output in {"json", "yaml"}:
        from orbitcontrol.cli.import_output import shown_import  # noqa: PLC0415 -- only who asks pays for it

        emit_value(shown_import(planned, result, outcome), output=output)
    elif outcome is not None:
        from orbitcontrol.cli.import_wait import print_outcome  # noqa: PLC0415 -- loaded by who waits

        print_outcome(outcome)


def _print_result(planned: PlannedImport, result: ImportResult) -> None:
    before = planned.stored.meta
    if planned.stored.redo is not None and before is not None:
        click.echo(f"Finished generation {before.generation} of {before.imported_by}.", err=True)
    if planned.stored.dead_logs:
        click.echo("Dropped what an interrupted import had left; it was never in force.", err=True)
    if result.written:
        click.echo(f"Imported as generation {result.meta.generation}.", err=True)


def _print_plan(planned: PlannedImport, *, changes_to_stderr: bool = False) -> None:
    print_applying(planned.stored)
    for line in planned.plan.lines():
        click.echo(line, err=changes_to_stderr)
    click.echo(_plan_summary(planned), err=True)


def _plan_summary(planned: PlannedImport) -> str:
    meta = planned.stored.meta
    if meta is not None and planned.plan.is_empty:
        return f"Nothing to change: the store has this configuration, generation {meta.generation}."
    first = "" if meta else "The store has no configuration yet. "
    return f"{first}{_changes(planned.plan)}. {_touched(planned.impact)}"


def _changes(plan: ImportPlan) -> str:
    return (
        f"{plan.count('added')} to add, {plan.count('changed')} to change, {plan.count('removed')} to remove"
    )


def _touched(impact: Impact) -> str:
    if not impact.machines:
        return "No known machine is touched."
    machines = count_of(len(impact.machines), "machine", "machines")
    names = ", ".join(_machine(machine) for machine in impact.machines)
    return f"Touches {machines} and {count_of(impact.containers, 'container', 'containers')}: {names}."


def _machine(machine: MachineImpact) -> str:
    containers = ", ".join(f"{count} of {service}" for service, count in machine.containers.items())
    return f"{machine.address} ({containers})" if containers else machine.address
