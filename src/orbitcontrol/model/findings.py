"""What is wrong with a configuration tree, as values: everything is found first, then shown at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct


class Finding(Struct, frozen=True, kw_only=True):
    """One thing to mend, or to know.

    ``file`` is relative to the tree with ``/`` between its parts ("" for the tree itself);
    ``where`` is a JSON path (``Checks[0].Url``) or a place (``line 3, column 5``), "" for the whole
    file. A problem keeps the tree from being used; a warning does not.
    """

    file: str
    message: str
    where: str = ""
    severity: Literal["problem", "warning"] = "problem"

    def __str__(self) -> str:
        """One printable line: what a file says must not move a terminal's cursor."""
        text = ": ".join(part for part in (self.file, self.where, self.message) if part)
        return text if text.isprintable() else "".join(map(_printable, text))

    @property
    def is_problem(self) -> bool:
        return self.severity == "problem"


def _printable(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


def problems_of(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Those that keep a tree from being used."""
    return tuple(finding for finding in findings if finding.is_problem)


def warnings_of(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Those that a person should know."""
    return tuple(finding for finding in findings if not finding.is_problem)
