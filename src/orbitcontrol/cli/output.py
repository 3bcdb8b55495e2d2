"""Prints what reading commands found: a table for people, JSON or YAML for programs.

A command gives its records as values with PascalCase fields and says which columns its table has.
JSON and YAML carry the whole records; the table only what fits a screen, ``wide`` a little more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
import msgspec
from msgspec import Struct

from orbitcontrol.cli.framework import option
from orbitcontrol.codec.values import to_plain

T = TypeVar("T")

FORMATS = ("table", "wide", "json", "yaml")

output_option = option(
    "-o",
    "--output",
    "output",
    type=click.Choice(FORMATS),
    default="table",
    help="how to print: for people (table, wide) or programs (json, yaml)",
)


class Column(Struct, frozen=True):
    """A table's column: its title, how a record fills it, whether only ``wide`` shows it."""

    title: str
    cell: Callable[[Any], object]
    wide: bool = False


def emit(records: Sequence[T], columns: Sequence[Column], *, output: str, empty: str) -> None:
    """Prints the records in the given format; ``empty`` is the note when a table has no rows."""
    if output in {"json", "yaml"}:
        emit_value(list(records), output=output)
    elif records:
        click.echo(table(records, [column for column in columns if output == "wide" or not column.wide]))
    else:
        click.echo(empty, err=True)


def emit_value(value: object, *, output: str) -> None:
    """Prints one value as JSON or YAML."""
    plain = msgspec.to_builtins(value, enc_hook=to_plain)
    if output == "yaml":
        import yaml  # noqa: PLC0415 -- only who asks for YAML pays for it

        click.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), nl=False)
    else:
        click.echo(msgspec.json.format(msgspec.json.encode(plain), indent=2).decode())


def table(records: Sequence[T], columns: Sequence[Column]) -> str:
    """The records as aligned columns under their titles."""
    rows = [[column.title for column in columns]]
    rows += [[_text(column.cell(record)) for column in columns] for record in records]
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _text(value: object) -> str:
    if isinstance(value, tuple | list | frozenset):
        return ",".join(str(part) for part in value) or "-"
    return "-" if value in (None, "") else str(value)
