"""HAProxy's ``show stat`` and ``show info`` as values.

``show stat`` is CSV whose first line names the columns (management guide, 9.1 and 9.3): versions
differ in how many there are and in their order, so every value is taken by its column's name.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection
from typing import Literal

from msgspec import Struct

Kind = Literal["frontend", "backend", "server", "listener"]

_KINDS: dict[str, Kind] = {"0": "frontend", "1": "backend", "2": "server", "3": "listener"}
_NEEDED = frozenset({"pxname", "svname", "type", "scur", "qcur"})
_INFO = re.compile(r"^([A-Za-z_-]+): (\d+)\s*$", re.MULTILINE)


class StatRow(Struct, frozen=True, kw_only=True):
    """One row of ``show stat``.

    ``sessions`` is ``scur``, ``queued`` is ``qcur``. ``address`` is a server's ``host:port``, "" where
    HAProxy shows none; ``check`` is the last outcome of its check, such as ``L7OK``, "" where it has
    none. ``h2_connections`` counts the open HTTP/2 connections of a frontend; None where
    this HAProxy does not count them.
    """

    proxy: str
    server: str
    kind: Kind
    sessions: int = 0
    queued: int = 0
    status: str = ""
    address: str = ""
    check: str = ""
    h2_connections: int | None = None


def parse_statistics(reply: str, *, naming: Collection[str] = ()) -> tuple[StatRow, ...]:
    """The rows of ``show stat``; half a row is left out.

    With ``naming`` only rows whose line has one of these texts: of thousands mostly a few matter. None at
    all where the text is something else, or has no column that tells of sessions.
    """
    if not reply.startswith("# "):
        return ()
    head, *lines = reply.removeprefix("# ").split("\n")
    if naming:
        named = re.compile("|".join(map(re.escape, naming)))
        lines = [line for line in lines if named.search(line)]
    names, *rows = csv.reader([head, *lines])
    if not _NEEDED.issubset(names):
        return ()
    column = {name: index for index, name in enumerate(names)}
    found = (_row(column, row) for row in rows if len(row) >= len(names))
    return tuple(row for row in found if row is not None)


def is_complete(reply: str) -> bool:
    """True for a whole ``show stat``, read to the end of its connection: an empty line closes it."""
    return reply.startswith("# ") and reply.endswith("\n\n")


def _row(column: dict[str, int], row: list[str]) -> StatRow | None:
    def value(name: str) -> str:
        index = column.get(name)
        return "" if index is None else row[index]

    kind = _KINDS.get(value("type"))
    if kind is None:
        return None
    h2_connections = value("h2_open_connections")
    return StatRow(
        proxy=value("pxname"),
        server=value("svname"),
        kind=kind,
        sessions=_count(value("scur")),
        queued=_count(value("qcur")),
        status=value("status"),
        address=value("addr"),
        check=value("check_status"),
        h2_connections=_count(h2_connections) if h2_connections else None,
    )


def _count(value: str) -> int:
    return int(value) if value.isdecimal() else 0


def parse_info(reply: str) -> dict[str, int]:
    """The numbers of ``show info`` by their names, such as ``Pid`` and ``CurrConns``."""
    return {name: int(value) for name, value in _INFO.findall(reply)}
