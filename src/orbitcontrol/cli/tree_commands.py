"""``init``, ``validate``, ``schema``, ``plan``, ``import``, ``export``, ``verify``: everything about trees.

What is wrong with a tree goes to standard error, a line each, the file first; what a command found out
goes to standard output. ``plan`` and ``verify`` end with 0 when nothing differs, 1 when something
does, and 2 when they could not tell.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar

import click
from msgspec import Struct

from orbitcontrol.cli.context import CommandContext, utc_now
from orbitcontrol.cli.framework import OrbitCommand, option
from orbitcontrol.cli.import_wait import WaitOutcome, concluded, print_outcome, wait_for, wait_of
from orbitcontrol.cli.output import emit_value, output_option
from orbitcontrol.cli.times import seconds
from orbitcontrol.errors import OrbitError, TreeError, UsageError
from orbitcontrol.model.findings import Finding
from orbitcontrol.ops import importing, scaffold
from orbitcontrol.ops import schema as schemas
from orbitcontrol.ops.exporting import write_tree
from orbitcontrol.ops.importing import ImportResult, PlannedImport, Stamp
from orbitcontrol.ops.source import source_of
from orbitcontrol.ops.stored_configuration import StoredConfiguration, read_configuration
from orbitcontrol.ops.validating import check_templates
from orbitcontrol.ops.verifying import compare
from orbitcontrol.planning.awaited_rollouts import ServiceVerdict
from orbitcontrol.planning.impact import Impact, MachineImpact
from orbitcontrol.planning.imports import ImportPlan
from orbitcontrol.planning.verdicts import MachineVerdict
from orbitcontrol.ports import Store
from orbitcontrol.tree.load import LoadedTree, load
from orbitcontrol.tree.write import require_empty

DIFFERENT = 1

_directory = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
_allow_unknown = click.option(
    "--allow-unknown", is_flag=True, help="warn about unknown fields instead of refusing the tree"
)
_haproxy_binary = option("--haproxy-binary", metavar="FILE", default="haproxy", help="the program")


class _CouldNotTell(OrbitError):
    """``plan`` or ``verify`` failed, which must not look like "different"."""

    exit_code: ClassVar[int] = 2


class ShownChange(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A change as ``plan -o json`` prints it; ``kind`` is added, changed or removed."""

    key: str
    kind: str
    details: tuple[str, ...]


class ShownMachine(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A machine that a plan touches, with the number of its containers by service."""

    machine: str
    containers: dict[str, int]


class ShownPlan(Struct, frozen=True, kw_only=True, rename="pascal"):
    """The record that ``plan -o json`` prints."""

    changes: list[ShownChange]
    machines: list[ShownMachine]
    unchanged: int


class ShownImport(ShownPlan, frozen=True, kw_only=True, rename="pascal"):
    """The record that ``import -o json`` prints: the plan, and what became of it.

    ``generation`` is the one in force; ``written`` is false when it was already. ``verdicts`` and
    ``rollouts`` are what ``--wait`` waits for.
    """

    generation: int
    written: bool
    verdicts: list[MachineVerdict] = []
    rollouts: list[ServiceVerdict] = []


@click.command(cls=OrbitCommand)
@_directory
def init(directory: Path) -> None:
    """Write a small working tree to start from into DIR, which must be new or empty."""
    for path in scaffold.init(directory):
        click.echo(path)
    click.echo(f"A tree is in {directory}. Next: orbitctl validate {directory}", err=True)


@click.command(cls=OrbitCommand)
@_directory
@_allow_unknown
@_haproxy_binary
def validate(directory: Path, *, allow_unknown: bool, haproxy_binary: str) -> int:
    """Check the tree in DIR without a store: files, references, templates, and HAProxy's own opinion.

    HAProxy is asked when it is installed. Every file with a problem and every problem in it is named.
    Ends with 1 when there is a problem; warnings alone are no problem.
    """
    tree = _judged(load(directory, allow_unknown=allow_unknown), binary=haproxy_binary)
    _print_findings(tree.findings)
    click.echo(f"{directory}: {_summary(tree)}", err=True)
    return 1 if tree.problems else 0


@click.command(cls=OrbitCommand)
@click.argument("kind", type=click.Choice(schemas.KINDS_OF_SCHEMA), default="service")
def schema(kind: schemas.SchemaKind) -> None:
    """Print the JSON Schema of a kind of file, for editors: service, tag (a binding) or global."""
    click.echo(json.dumps(schemas.schema(kind), indent=2, ensure_ascii=False))


@click.command(cls=OrbitCommand)
@_directory
@_allow_unknown
@output_option
@click.pass_obj
def plan(context: CommandContext, directory: Path, *, allow_unknown: bool, output: str) -> int:
    """Show what importing the tree in DIR would change, and whom it would touch. Writes nothing.

    Values of variables, passwords, tokens and certificates are never shown. Ends with 0 when nothing
    would change, 1 when something would, 2 when it could not be told.
    """
    with _failing_with_2():
        tree = _sound(load(directory, allow_unknown=allow_unknown), directory)
        planned = context.with_store(
            lambda store: importing.plan(store, context.keys, tree.entries), may_create=True
        )
    if output in {"json", "yaml"}:
        emit_value(_shown(planned), output=output)
    else:
        _print_plan(planned)
    return DIFFERENT if planned.is_needed else 0


@click.command(cls=OrbitCommand, name="import")
@_directory
@_allow_unknown
@_haproxy_binary
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
    tree = _sound(_judged(tree, binary=haproxy_binary, ask_haproxy=not no_haproxy_check), directory)
    for_people = output not in {"json", "yaml"}

    async def session(store: Store) -> int:
        planned = await importing.plan(store, context.keys, tree.entries)
        _print_plan(planned, changes_to_stderr=not for_people)
        result = await _imported(store, context, planned, directory, tree)
        if result is None:
            return 1
        outcome = WaitOutcome()
        if wait:
            outcome = await wait_for(store, context, wait_of(tree, planned, result, timeout=patience))
        if for_people:
            print_outcome(outcome)
        else:
            emit_value(_shown_import(planned, result, outcome), output=output)
        return concluded(outcome, result.meta)

    return context.with_store(session, may_create=True)


async def _imported(
    store: Store, context: CommandContext, planned: PlannedImport, directory: Path, tree: LoadedTree
) -> ImportResult | None:
    """Does the import, if there is anything to do; None when the person at the terminal says no."""
    present = planned.stored.meta
    if present is not None and not planned.is_needed and not planned.tidies:
        return ImportResult(meta=present, written=False)
    if planned.plan.removes and context.interactive and not context.yes:
        question = f"This removes {_count(len(planned.plan.removes), 'entry', 'entries')}. Import?"
        if not click.confirm(question, err=True):
            click.echo("Nothing was written.", err=True)
            return None
    stamp = Stamp(
        now=utc_now(),
        user=context.user,
        epoch=secrets.token_hex(16),
        import_id=secrets.token_hex(8),
        source=source_of(directory, tree.entries),
    )
    result = await importing.apply(store, context.keys, planned, stamp)
    _print_result(planned, result)
    return result


@click.command(cls=OrbitCommand)
@_directory
@click.pass_obj
def export(context: CommandContext, directory: Path) -> None:
    """Write the store's configuration as a tree into DIR, which must be new or empty."""
    require_empty(directory)
    stored, address = context.with_store(partial(_read, context))
    _print_applying(stored)
    count = write_tree(stored, directory, address=address)
    click.echo(f"{directory}: {_count(count, 'file', 'files')} written", err=True)


@click.command(cls=OrbitCommand)
@_directory
@_allow_unknown
@output_option
@click.pass_obj
def verify(context: CommandContext, directory: Path, *, allow_unknown: bool, output: str) -> int:
    """Compare the store with the tree in DIR and name every difference: store → tree.

    Ends with 0 when they are the same, 1 when they differ, 2 when it could not be told.
    """
    with _failing_with_2():
        tree = _sound(load(directory, allow_unknown=allow_unknown), directory)
        stored, _ = context.with_store(partial(_read, context))
        _print_applying(stored)
        differences = compare(stored, tree.entries)
    if output in {"json", "yaml"}:
        emit_value(list(differences), output=output)
    else:
        for difference in differences:
            click.echo(difference)
        if not differences:
            click.echo("The store has exactly this tree.", err=True)
    return DIFFERENT if differences else 0


async def _read(context: CommandContext, store: Store) -> tuple[StoredConfiguration, str]:
    """The configuration, and the store's address for messages."""
    return await read_configuration(store, context.keys), store.address


@contextmanager
def _failing_with_2() -> Iterator[None]:
    try:
        yield
    except OrbitError as error:
        raise _CouldNotTell(str(error)) from error


def _judged(tree: LoadedTree, *, binary: str, ask_haproxy: bool = True) -> LoadedTree:
    """The tree with what its templates turned out to be."""
    if all(tag.template is None for tag in tree.configuration.tags.values()):
        return tree
    from orbitcontrol.haproxy.validate import check_template  # noqa: PLC0415 -- only who judges pays for it

    return asyncio.run(check_templates(tree, partial(check_template, binary=binary, ask_haproxy=ask_haproxy)))


def _sound(tree: LoadedTree, directory: Path) -> LoadedTree:
    """The tree, after telling all that was found. Raises ``TreeError`` when there is a problem."""
    _print_findings(tree.findings)
    if tree.problems:
        raise TreeError([f"{directory}: {_summary(tree)}; nothing was written"])
    return tree


def _print_findings(findings: Iterable[Finding]) -> None:
    for finding in findings:
        click.echo(str(finding) if finding.is_problem else f"warning: {finding}", err=True)


def _summary(tree: LoadedTree) -> str:
    if not tree.findings:
        return "no problems"
    problems = _count(len(tree.problems), "problem", "problems")
    return f"{problems}, {_count(len(tree.warnings), 'warning', 'warnings')}"


def _print_result(planned: PlannedImport, result: ImportResult) -> None:
    before = planned.stored.meta
    if planned.stored.redo is not None and before is not None:
        click.echo(f"Finished generation {before.generation} of {before.imported_by}.", err=True)
    if planned.stored.dead_logs:
        click.echo("Dropped what an interrupted import had left; it was never in force.", err=True)
    if result.written:
        click.echo(f"Imported as generation {result.meta.generation}.", err=True)


def _print_applying(stored: StoredConfiguration) -> None:
    """Says so when the store is read in the middle of an import: what is shown is its end."""
    if stored.redo is not None and stored.meta is not None:
        click.echo(
            f"Generation {stored.meta.generation}, imported by {stored.meta.imported_by} at "
            f"{stored.meta.imported_at}, is still being applied, and taken here as if it were complete. "
            "If it was interrupted, `orbitctl import` finishes it.",
            err=True,
        )


def _print_plan(planned: PlannedImport, *, changes_to_stderr: bool = False) -> None:
    _print_applying(planned.stored)
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
    machines = _count(len(impact.machines), "machine", "machines")
    names = ", ".join(_machine(machine) for machine in impact.machines)
    return f"Touches {machines} and {_count(impact.containers, 'container', 'containers')}: {names}."


def _machine(machine: MachineImpact) -> str:
    containers = ", ".join(f"{count} of {service}" for service, count in machine.containers.items())
    return f"{machine.address} ({containers})" if containers else machine.address


def _shown(planned: PlannedImport) -> ShownPlan:
    return ShownPlan(
        changes=[
            ShownChange(key=change.key, kind=change.kind, details=change.details)
            for change in planned.plan.changes
        ],
        machines=[
            ShownMachine(machine=machine.address, containers=machine.containers)
            for machine in planned.impact.machines
        ],
        unchanged=planned.plan.unchanged,
    )


def _shown_import(planned: PlannedImport, result: ImportResult, outcome: WaitOutcome) -> ShownImport:
    shown = _shown(planned)
    return ShownImport(
        changes=shown.changes,
        machines=shown.machines,
        unchanged=shown.unchanged,
        generation=result.meta.generation,
        written=result.written,
        verdicts=list(outcome.machines),
        rollouts=list(outcome.services),
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
