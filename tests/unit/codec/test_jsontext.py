"""Strict JSON: what is refused, and that the message says where and what to do."""

from __future__ import annotations

import json

import pytest

from orbitcontrol.codec.jsontext import MAX_DEPTH, decode_utf8, parse
from orbitcontrol.model.findings import Finding


def complaint(text: str) -> str:
    (finding,) = parse(text, file="f.json").findings
    return str(finding)


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", ' {"a": [1, -2.5e3, "x\\n\\u00e9", true, false, null, {}]} \n', '"text"', "0", "-0", "1E2"],
)
def test_sound_json_has_the_value_that_everybody_else_reads(text: str) -> None:
    parsed = parse(text, file="f.json")
    assert parsed.ok
    assert parsed.value == json.loads(text)


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("", "line 1, column 1", "empty"),
        (" \n ", "line 1, column 1", "empty"),
        ('{"a": 1,\n}', "line 1, column 8", "remove this comma"),
        ("[1, ]", "line 1, column 3", "remove this comma"),
        ('{"a": 1\n "b": 2}', "line 1, column 8", "a comma or a } is missing"),
        ("[1\n2]", "line 1, column 3", "a comma or a ] is missing"),
        ('{"a" 1}', "line 1, column 5", "colon"),
        ("{'a': 1}", "line 1, column 2", "double quotes"),
        ("{\"a\": 'b'}", "line 1, column 7", "double quotes"),
        ("{a: 1}", "line 1, column 2", "double quotes"),
        ("{,}", "line 1, column 2", "one comma too many"),
        ('{"a": }', "line 1, column 7", "a value is missing"),
        ('{"a": True}', "line 1, column 7", "write true, false or null"),
        ('{"a": None}', "line 1, column 7", "write true, false or null"),
        ('{"a": yes}', "line 1, column 7", 'double quotes: "yes"'),
        ('{"a": NaN}', "line 1, column 7", "NaN is not a number"),
        ('{"a": -Infinity}', "line 1, column 7", "-Infinity is not a number"),
        ('{"a": 012}', "line 1, column 7", "012 is not a number"),
        ('{"a": 1.}', "line 1, column 7", "1. is not a number"),
        ('{"a": 1e400}', "line 1, column 7", "too large"),
        ('{"a": 9223372036854775808}', "line 1, column 7", "64 bits"),
        ('{"a": ' + "9" * 5000 + "}", "line 1, column 7", "64 bits"),
        ('{"a": "b\nc"}', "line 1, column 7", "no closing quote on its line"),
        ('{"a": "b\tc"}', "line 1, column 9", "control character (0x09)"),
        ('{"a": "C:\\dir"}', "line 1, column 10", "a backslash is written \\\\"),
        ('{"a": "\\ud800"}', "line 1, column 7", "half a character"),
        ('{"a": "\\u0000"}', "line 1, column 7", "NUL"),
        ("{}\n{}", "line 2, column 1", "remove the rest"),
        ("{}}", "line 1, column 3", "remove the rest"),
        ('{\n // why\n "a": 1}', "line 2, column 2", "no comments"),
        ("# why\n{}", "line 1, column 1", "no comments"),
        ('{"a": 1\n', "line 1, column 8", "the { of line 1 is not closed"),
        ('{"a":', "line 1, column 6", "the file ends here"),
        ("\ufeff{}", "line 1, column 1", "byte order mark"),
        ("[" * (MAX_DEPTH + 2), f"line 1, column {MAX_DEPTH + 2}", "nested more than"),
        ("[" * 100_000, f"line 1, column {MAX_DEPTH + 2}", "nested more than"),
    ],
)
def test_a_slip_is_told_with_line_and_column(text: str, place: str, says: str) -> None:
    message = complaint(text)
    assert message.startswith(f"f.json: {place}: ")
    assert says in message
    assert len(message) < 200


def test_every_repeated_key_is_told_with_where_it_came_first() -> None:
    findings = parse('{"a": 1,\n "a": 2, "b": {"c": 1, "c": 2}}', file="f.json").findings
    assert [str(finding) for finding in findings] == [
        'f.json: line 2, column 2: "a" is here twice (first in line 1); keep one of them',
        'f.json: line 2, column 24: "c" is here twice (first in line 2); keep one of them',
    ]


def test_the_same_key_in_two_objects_is_no_repetition() -> None:
    assert parse('[{"a": 1}, {"a": 2}]', file="f.json").ok


def test_bytes_that_are_not_utf8_are_told_with_their_line() -> None:
    found = decode_utf8(b'{\n"a": "\xe9"}', file="f.json")
    assert isinstance(found, Finding)
    assert str(found) == "f.json: line 2: byte 0xe9 is not UTF-8; save the file as UTF-8 text"


def test_what_a_file_says_cannot_move_a_terminals_cursor() -> None:
    assert complaint('{"a": \x1b[2J}').isprintable()
    assert "\\x1b" in complaint('{"a": \x1b}')
