"""Why a text is no strict JSON, in words that tell a person what to mend.

The standard library's parser lets the last of two equal keys win, takes NaN, and says "Expecting
property name enclosed in double quotes" of a trailing comma. Trees are written by hand, so this
small parser knows the usual slips by name and says line and column (counted from 1) of each.
It bounds what it takes: 64 levels deep, whole numbers of 64 bits, as etcd's and Docker's readers do.

It decides what is sound; ``jsontext`` reads what is so without doubt in a quicker way.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from orbitcontrol.codec.jsontext import MAX_DEPTH, Parsed
from orbitcontrol.model.findings import Finding

_MOST_REPEATED = 100
"""Finding lines costs time for each; nobody reads more."""

_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(
    r'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*"',
)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORD = re.compile(r"[^\s,:\[\]{}\"']+")
_STRING_BODY = re.compile(r'(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*')
_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "null": None}
_LARGEST = 2**63 - 1


def explained(text: str, *, file: str) -> Parsed:
    """The JSON value of a file's text, or every fault that was found in it."""
    parser = _Parser(text)
    try:
        value = parser.document()
    except _Fault as fault:
        return Parsed(findings=(parser.finding(fault, file=file),))
    if parser.repeated:
        return Parsed(findings=tuple(parser.finding(fault, file=file) for fault in parser.repeated))
    return Parsed(value=value)


class _Fault(Exception):
    """Something wrong at a position of the text."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position
        self.message = message


class _Parser:
    """Recursive descent over one text; ``repeated`` collects the keys that come twice."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.repeated: list[_Fault] = []

    def finding(self, fault: _Fault, *, file: str) -> Finding:
        line, column = self._place(fault.position)
        return Finding(file=file, where=f"line {line}, column {column}", message=fault.message)

    def document(self) -> Any:
        if self.text.startswith("\ufeff"):
            raise _Fault(0, "the file begins with a byte order mark; save it as UTF-8 without one")
        self._skip_space()
        if self.at == len(self.text):
            raise _Fault(0, "the file is empty; write at least {} (authoritative_names: [])")
        value = self._value(0)
        self._skip_space()
        if self.at < len(self.text):
            raise self._unexpected_after_document()
        return value

    def _value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _Fault(self.at, f"nested more than {MAX_DEPTH} levels deep")
        match self.text[self.at : self.at + 1]:
            case "{":
                return self._object(depth)
            case "[":
                return self._list(depth)
            case '"':
                return self._string()
            case character if character and character in "-0123456789":
                return self._number()
        return self._constant()

    def _object(self, depth: int) -> dict[str, Any]:
        opened = self.at
        result: dict[str, Any] = {}
        first_seen: dict[str, int] = {}
        self.at += 1
        while not self._closed("}", opened, empty=not first_seen):
            start = self.at
            key = self._key()
            value = self._member(depth)
            if key in first_seen:
                self._note_repeated(key, start, first_seen[key])
            else:
                first_seen[key] = start
                result[key] = value
        return result

    def _note_repeated(self, key: str, position: int, first: int) -> None:
        if len(self.repeated) == _MOST_REPEATED:
            return
        line, _ = self._place(first)
        message = (
            f"{json.dumps(key, ensure_ascii=False)} is here twice (first in line {line}); keep one of them"
        )
        self.repeated.append(_Fault(position, message))

    def _member(self, depth: int) -> Any:
        end = self.at
        self._skip_space()
        if self.text[self.at : self.at + 1] != ":":
            raise _Fault(end, "a colon is missing after this name")
        self.at += 1
        self._skip_space()
        return self._value(depth + 1)

    def _list(self, depth: int) -> list[Any]:
        opened = self.at
        result: list[Any] = []
        self.at += 1
        while not self._closed("]", opened, empty=not result):
            result.append(self._value(depth + 1))
        return result

    def _closed(self, bracket: str, opened: int, *, empty: bool) -> bool:
        """Steps over a closing bracket (True), or to the next member (False)."""
        end = self.at
        self._skip_space()
        character = self.text[self.at : self.at + 1]
        if character == bracket:
            self.at += 1
            return True
        if not character:
            line, _ = self._place(opened)
            raise _Fault(end, f"the file ends here, but the {self.text[opened]} of line {line} is not closed")
        if empty:
            return False
        if character != ",":
            self._refuse_comment()
            raise _Fault(end, f"a comma or a {bracket} is missing here")
        comma = self.at
        self.at += 1
        self._skip_space()
        if self.text[self.at : self.at + 1] == bracket:
            raise _Fault(comma, f"remove this comma: nothing follows it before the {bracket}")
        return False

    def _key(self) -> str:
        if self.text[self.at : self.at + 1] == '"':
            return self._string()
        self._refuse_comment()
        if self.text[self.at : self.at + 1] == ",":
            raise _Fault(self.at, "one comma too many")
        raise _Fault(self.at, 'a name in double quotes is missing here, like "Name"')

    def _string(self) -> str:
        found = _STRING.match(self.text, self.at)
        if found is None:
            raise self._broken_string()
        value: str = json.loads(found.group())
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise _Fault(self.at, "this text holds half a character (a lone \\ud800 … \\udfff)")
        if "\0" in value:
            raise _Fault(self.at, "this text holds a NUL character (\\u0000)")
        self.at = found.end()
        return value

    def _broken_string(self) -> _Fault:
        body = _STRING_BODY.match(self.text, self.at + 1)
        end = body.end() if body else self.at + 1
        character = self.text[end : end + 1]
        if character in ("", "\n", "\r"):
            return _Fault(self.at, "this text has no closing quote on its line (a line break is written \\n)")
        if character == "\\":
            return _Fault(end, "no such escape in JSON; a backslash is written \\\\")
        return _Fault(end, f"a control character (0x{ord(character):02x}) in a text; a tab is written \\t")

    def _number(self) -> int | float:
        found = _NUMBER.match(self.text, self.at)
        word = _WORD.match(self.text, self.at)
        written = word.group() if word else ""
        if found is None or found.group() != written:
            raise _Fault(self.at, f"{_short(written)} is not a number in JSON")
        self.at = found.end()
        if found.group(1) or found.group(2):
            number = float(written)
            if math.isinf(number):
                raise _Fault(found.start(), f"{_short(written)} is too large a number")
            return number
        if len(written) > 20 or not -_LARGEST - 1 <= int(written) <= _LARGEST:
            raise _Fault(found.start(), f"{_short(written)} is too large: whole numbers have at most 64 bits")
        return int(written)

    def _constant(self) -> Any:
        self._refuse_comment()
        character = self.text[self.at : self.at + 1]
        if not character:
            raise _Fault(self.at, "the file ends here, but a value is missing")
        if character == "'":
            raise _Fault(self.at, 'texts are written in "double quotes"')
        word = _WORD.match(self.text, self.at)
        if word is None:
            raise _Fault(self.at, f"a value is missing before this {character}")
        written = word.group()
        if written in _CONSTANTS:
            self.at = word.end()
            return _CONSTANTS[written]
        if written.lower() in {"nan", "infinity", "inf"}:
            raise _Fault(self.at, f"{written} is not a number in JSON")
        if written.lower() in {*_CONSTANTS, "none"}:
            raise _Fault(self.at, f"{written} is unknown: write true, false or null, in small letters")
        raise _Fault(
            self.at, f'{_short(written)} is unknown; a text needs double quotes: "{_short(written)}"'
        )

    def _refuse_comment(self) -> None:
        if self.text[self.at : self.at + 1] == "#" or self.text[self.at : self.at + 2] in {"//", "/*"}:
            raise _Fault(self.at, "JSON has no comments; remove this one")

    def _unexpected_after_document(self) -> _Fault:
        self._refuse_comment()
        return _Fault(self.at, "the document ended before this; remove the rest, or a bracket too many")

    def _skip_space(self) -> None:
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def _place(self, position: int) -> tuple[int, int]:
        before = self.text[:position]
        return before.count("\n") + 1, position - before.rfind("\n")


def _short(written: str) -> str:
    return written if len(written) <= 30 else written[:27] + "…"
