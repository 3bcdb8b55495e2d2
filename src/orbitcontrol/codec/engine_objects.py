"""Faults in the values of the Docker Engine API's objects, for the few fields that Orbit reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orbitcontrol.codec.engine import KINDS
from orbitcontrol.codec.wording import element, kind_of, member

Fault = tuple[str, str, bool]
"""JSON path, message, and whether it is a problem (else a warning)."""


def engine_faults(fields: dict[str, Any], path: str) -> Iterator[Fault]:
    """What is wrong with the fields of a ``Config`` or ``HostConfig`` under canonical names."""
    for name, value in fields.items():
        kind = KINDS.get(name)
        if kind is None:
            continue
        where = member(path, name)
        if value is None:
            yield where, "is null; leave the field out instead", True
            continue
        match kind:
            case "text":
                yield from _text(value, where)
            case "texts":
                yield from _texts(value, where)
            case "command":
                yield from () if isinstance(value, str) else _texts(value, where)
            case "environment":
                yield from _environment(value, where)
            case "text map":
                yield from _text_map(value, where)
            case "object":
                yield from _object(value, where)


def _text(value: Any, where: str) -> Iterator[Fault]:
    if not isinstance(value, str):
        yield where, f"expected a text, not {kind_of(value)}", True


def _object(value: Any, where: str) -> Iterator[Fault]:
    if not isinstance(value, dict):
        yield where, f"expected an object in {{ }}, not {kind_of(value)}", True


def _texts(value: Any, where: str) -> Iterator[Fault]:
    if not isinstance(value, list):
        yield where, f"expected a list of texts in [ ], not {kind_of(value)}", True
        return
    for index, item in enumerate(value):
        yield from _text(item, element(where, index))


def _environment(value: Any, where: str) -> Iterator[Fault]:
    """Values may be secrets: messages show none."""
    if not isinstance(value, list):
        yield where, f'expected a list of texts like ["NAME=value"], not {kind_of(value)}', True
        return
    for index, item in enumerate(value):
        place = element(where, index)
        if not isinstance(item, str):
            yield place, f'expected a text like "NAME=value", not {kind_of(item)}', True
        elif not item or item.startswith("="):
            yield place, 'has no name; write it like "NAME=value"', True
        elif "=" not in item:
            yield place, "has no '='; Docker removes this variable instead of setting it", False


def _text_map(value: Any, where: str) -> Iterator[Fault]:
    if not isinstance(value, dict):
        yield where, f"expected an object of texts in {{ }}, not {kind_of(value)}", True
        return
    for key, item in value.items():
        yield from _text(item, member(where, key))
