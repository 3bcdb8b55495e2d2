"""Strict JSON, read quickly where it is beyond doubt.

A parser takes more than people may write: the last of two equal keys wins, whole numbers have any size.
A text of a tree is refused for that, with the place and what to do, and saying so takes a parser of its own
(``jsonfaults``). Nearly every text is sound, so here msgspec reads it first, and the text goes to the other
one only when something about it could be refused:

* A pair whose key is repeated takes at least its own colon with it. Encoded again, what was read has
  as many colons as the text exactly when no pair was lost; an escape could hide one, and is left to
  the other parser, as it can hide a NUL or half a character, too.
* A whole number of more than 64 bits has at least 19 digits in a row.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from orbitcontrol.model.findings import Finding

MAX_DEPTH = 64
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_TOO_LONG = b"0" * 19


class Parsed(Struct, frozen=True, kw_only=True):
    """What a text holds; ``value`` is None and ``ok`` false when it is not JSON or repeats a key."""

    value: Any = None
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.findings


def decode_utf8(raw: bytes, *, file: str) -> str | Finding:
    """The bytes as text, or what is wrong with them."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return Finding(
            file=file,
            where=f"line {line}",
            message=f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8 text",
        )


def parse(text: str, *, file: str) -> Parsed:
    """The JSON value of a file's text. Never raises: what is wrong comes back as findings."""
    try:
        return Parsed(value=_sound(text.encode()))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        from orbitcontrol.codec.jsonfaults import explained  # noqa: PLC0415 -- only mistakes need it

        return explained(text, file=file)


def _sound(raw: bytes) -> Any:
    """The value of a text that is beyond doubt. Raises for all others what ``parse`` expects."""
    if b"\\u" in raw:
        raise ValueError("an escape may hide a NUL, half a character, or a colon")
    if _TOO_LONG in raw.translate(_DIGITS):
        raise ValueError("a number may be too large")
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:
        raise ValueError("it may be nested too deep")
    value = msgspec.json.decode(raw)
    if msgspec.json.encode(value).count(b":") != raw.count(b":"):
        raise ValueError("a key is repeated")
    return value
