"""``init``, ``validate``, ``schema``, ``export``, ``verify``: trees without an import.

What a command found out goes to standard output. ``verify`` ends with 0 when nothing differs, 1 when
something does, and 2 when it could not tell.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import click

from orbitcontrol.cli.context import CommandContext
from orbitcontrol.cli.framework import OrbitCommand
from orbitcontrol.cli.output import emit_value, output_option
from orbitcontrol.cli.trees import (
    DIFFERENT,
    allow_unknown_option,
    count_of,
    directory_argument,
    failing_with_2,
    haproxy_binary_option,
    judged,
    print_applying,
    print_findings,
    sound,
    summary,
)
from orbitcontrol.ops import scaffold
from orbitcontrol.ops import schema as schemas
from orbitcontrol.ops.exporting import write_tree
from orbitcontrol.ops.stored_configuration import StoredConfiguration, read_configuration
from orbitcontrol.ops.verifying import compare
from orbitcontrol.ports import Store
from orbitcontrol.tree.load import load
from orbitcontrol.tree.write import require_empty


@click.command(cls=OrbitCommand)
@directory_argument
def init(directory: Path) -> None:
    """Write a small working tree to start from into DIR, which must be new or empty."""
    for path in scaffold.init(directory):
        click.echo(path)
    click.echo(f"A tree is in {directory}. Next: orbitctl validate {directory}", err=True)


@click.command(cls=OrbitCommand)
@directory_argument
@allow_unknown_option
@haproxy_binary_option
def validate(directory: Path, *, allow_unknown: bool, haproxy_binary: str) -> int:
    """Check the tree in DIR without a store: files, references, templates, and HAProxy's own opinion.

    HAProxy is asked when it is installed. Every file with a problem and every problem in it is named.
    Ends with 1 when there is a problem; warnings alone are no problem.
    """
    tree = judged(load(directory, allow_unknown=allow_unknown), binary=haproxy_binary)
    print_findings(tree.findings)
    click.echo(f"{directory}: {summary(tree)}", err=True)
    return 1 if tree.problems else 0


@click.command(cls=OrbitCommand)
@click.argument("kind", type=click.Choice(schemas.KINDS_OF_SCHEMA), default="service")
def schema(kind: schemas.SchemaKind) -> None:
    """Print the JSON Schema of a kind of file, for editors: service, tag (a binding) or global."""
    click.echo(json.dumps(schemas.schema(kind), indent=2, ensure_ascii=False))


@click.command(cls=OrbitCommand)
@directory_argument
@click.pass_obj
def export(context: CommandContext, directory: Path) -> None:
    """Write the store's configuration as a tree into DIR, which must be new or empty."""
    require_empty(directory)
    stored, address = context.with_store(partial(_read, context))
    print_applying(stored)
    count = write_tree(stored, directory, address=address)
    click.echo(f"{directory}: {count_of(count, 'file', 'files')} written", err=True)


@click.command(cls=OrbitCommand)
@directory_argument
@allow_unknown_option
@output_option
@click.pass_obj
def verify(context: CommandContext, directory: Path, *, allow_unknown: bool, output: str) -> int:
    """Compare the store with the tree in DIR and name every difference: store → tree.

    Ends with 0 when they are the same, 1 when they differ, 2 when it could not be told.
    """
    with failing_with_2():
        tree = sound(load(directory, allow_unknown=allow_unknown), directory)
        stored, _ = context.with_store(partial(_read, context))
        print_applying(stored)
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
