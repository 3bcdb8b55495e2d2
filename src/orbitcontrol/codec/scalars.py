"""Faults of values that have no parts: numbers, texts, durations, true and false."""

from __future__ import annotations

import math
import re
from typing import Any

from msgspec import inspect

from orbitcontrol.codec.wording import alternatives, kind_of
from orbitcontrol.model.durations import Duration
from orbitcontrol.model.service import NAME_PATTERN

_PATTERNS = {
    NAME_PATTERN: "may hold letters, digits, '.', '_' and '-', and begins with a letter or a digit",
    r"^([1-9]\d?|100)%$": 'expected a whole number or a percentage like "25%"',
}
_LONGEST = 366 * 86400.0


def scalar_fault(value: Any, expected: inspect.Type) -> str | None:
    """What is wrong with a value that has no parts; None when nothing is."""
    match expected:
        case inspect.IntType():
            return _int_fault(value, expected)
        case inspect.StrType():
            return _text_fault(value, expected)
        case inspect.BoolType():
            return _bool_fault(value)
        case inspect.LiteralType():
            return _literal_fault(value, expected)
        case inspect.CustomType(cls=cls) if cls is Duration:
            return _duration_fault(value)
    return f"cannot be {kind_of(value)}"


def _bool_fault(value: Any) -> str | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return f"expected {value.lower()}, without quotes"
    return f"expected true or false, not {kind_of(value)}"


def _literal_fault(value: Any, expected: inspect.LiteralType) -> str | None:
    if value in expected.values:
        return None
    written = f'"{value}"' if isinstance(value, str) else kind_of(value)
    choices = alternatives(f'"{choice}"' for choice in sorted(map(str, expected.values), reverse=True))
    return f"expected {choices}, not {written}"


def _int_fault(value: Any, expected: inspect.IntType) -> str | None:
    if isinstance(value, str) and value.strip().isdecimal():
        return "expected a whole number; write it without quotes"
    if isinstance(value, float):
        return f"expected a whole number, not {value}"
    if not isinstance(value, int) or isinstance(value, bool):
        return f"expected a whole number, not {kind_of(value)}"
    low, high = expected.ge, expected.le
    if (low is None or value >= low) and (high is None or value <= high):
        return None
    if high is None:
        return f"must be at least {low}, not {value}"
    return f"must be from {low} to {high}, not {value}"


def _text_fault(value: Any, expected: inspect.StrType) -> str | None:
    if not isinstance(value, str):
        hint = "; put it in double quotes" if isinstance(value, int | float) else ""
        return f"expected a text, not {kind_of(value)}{hint}"
    if expected.pattern and not re.fullmatch(expected.pattern, value):
        return _PATTERNS.get(expected.pattern, f"must match {expected.pattern}")
    if expected.max_length is not None and len(value) > expected.max_length:
        return f"is longer than {expected.max_length} characters"
    return None


def _duration_fault(value: Any) -> str | None:
    if not isinstance(value, str | int | float):
        return f'expected a duration like "500ms", "10s" or "2m", not {kind_of(value)}'
    try:
        duration = Duration.parse(value)
    except ValueError as error:
        return str(error)
    if not math.isfinite(duration) or duration > _LONGEST:
        return "is longer than a year"
    return None
