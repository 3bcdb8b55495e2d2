"""Store values: frozen structs to JSON bytes and back.

Encoding is deterministic (fields in their declared order), so equal values are equal bytes.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from orbitcontrol.errors import UndecodableValue
from orbitcontrol.model.durations import Duration

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """msgspec's hook for what JSON has no type for."""
    if isinstance(value, Duration):
        return str(value)
    raise NotImplementedError(f"cannot encode {type(value).__name__}")


def from_plain(expected: type, value: Any) -> Any:
    """msgspec's hook the other way; ValueError becomes a validation error with its path."""
    if expected is Duration:
        if not isinstance(value, str | int | float):
            raise ValueError("expected a duration like '500ms' or '10s'")
        return Duration.parse(value)
    raise NotImplementedError(f"cannot decode {expected}")


def encode(value: Any) -> bytes:
    """The value as compact JSON."""
    return msgspec.json.encode(value, enc_hook=to_plain)


def decode(raw: bytes, expected: type[T], *, key: str) -> T:
    """The bytes of ``key`` as ``expected``. Raises UndecodableValue naming the key and the fault."""
    try:
        return msgspec.json.decode(raw, type=expected, dec_hook=from_plain)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodableValue(f"{key}: {error}") from error
