"""What the commands about trees share: reading one, telling what is wrong with it, the words for counts.

What is wrong with a tree goes to standard error, a line each, the file first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar

import click

from orbitcontrol.cli.framework import option
from orbitcontrol.errors import OrbitError, TreeError
from orbitcontrol.model.findings import Finding
from orbitcontrol.ops.stored_configuration import StoredConfiguration
from orbitcontrol.tree.load import LoadedTree

DIFFERENT = 1

directory_argument = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
allow_unknown_option = click.option(
    "--allow-unknown", is_flag=True, help="warn about unknown fields instead of refusing the tree"
)
haproxy_binary_option = option("--haproxy-binary", metavar="FILE", default="haproxy", help="the program")


class _CouldNotTell(OrbitError):
    """``plan`` or ``verify`` failed, which must not look like "different"."""

    exit_code: ClassVar[int] = 2


@contextmanager
def failing_with_2() -> Iterator[None]:
    """Makes every error one that says so by the exit code 2."""
    try:
        yield
    except OrbitError as error:
        raise _CouldNotTell(str(error)) from error


def judged(tree: LoadedTree, *, binary: str, ask_haproxy: bool = True) -> LoadedTree:
    """The tree with what its templates turned out to be."""
    if all(tag.template is None for tag in tree.configuration.tags.values()):
        return tree
    import asyncio  # noqa: PLC0415 -- only who judges pays for it

    from orbitcontrol.haproxy.validate import check_template  # noqa: PLC0415 -- as above
    from orbitcontrol.ops.validating import check_templates  # noqa: PLC0415 -- as above

    return asyncio.run(check_templates(tree, partial(check_template, binary=binary, ask_haproxy=ask_haproxy)))


def sound(tree: LoadedTree, directory: Path) -> LoadedTree:
    """The tree, after telling all that was found. Raises ``TreeError`` when there is a problem."""
    print_findings(tree.findings)
    if tree.problems:
        raise TreeError([f"{directory}: {summary(tree)}; nothing was written"])
    return tree


def print_findings(findings: Iterable[Finding]) -> None:
    """A line for each, warnings marked."""
    for finding in findings:
        click.echo(str(finding) if finding.is_problem else f"warning: {finding}", err=True)


def summary(tree: LoadedTree) -> str:
    """How many problems and warnings there are."""
    if not tree.findings:
        return "no problems"
    problems = count_of(len(tree.problems), "problem", "problems")
    return f"{problems}, {count_of(len(tree.warnings), 'warning', 'warnings')}"


def print_applying(stored: StoredConfiguration) -> None:
    """Says so when the store is read in the middle of an import: what is shown is its end."""
    if stored.redo is not None and stored.meta is not None:
        click.echo(
            f"Generation {stored.meta.generation}, imported by {stored.meta.imported_by} at "
            f"{stored.meta.imported_at}, is still being applied, and taken here as if it were complete. "
            "If it was interrupted, `orbitctl import` finishes it.",
            err=True,
        )


def count_of(number: int, one: str, many: str) -> str:
    """The number with the word that fits it."""
    return f"{number} {one if number == 1 else many}"
