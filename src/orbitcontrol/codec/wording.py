"""How messages speak of JSON: kinds by the names people use, paths, and the nearest known name."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]+")


def kind_of(value: Any) -> str:
    """What a JSON value is, as the end of "expected …, not …". Never shows the value itself."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"


def member(path: str, key: str) -> str:
    """The JSON path of an object's member: ``Update.Order``, ``Labels["a b"]``."""
    if not _PLAIN_KEY.fullmatch(key):
        return f"{path}[{json.dumps(key, ensure_ascii=False)}]"
    return f"{path}.{key}" if path else key


def element(path: str, index: int) -> str:
    """The JSON path of a list's element, counted from 0."""
    return f"{path}[{index}]"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a person most likely meant; None when none is near. Case does not count."""
    by_lower = {candidate.lower(): candidate for candidate in sorted(known)}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.65)
    return by_lower[found[0]] if found else None


def alternatives(names: Iterable[str]) -> str:
    """``a, b or c``."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
