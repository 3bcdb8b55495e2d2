"""Which line of a template made which line of its output.

HAProxy names the line of the *rendered* file; the person who wrote the template wants theirs. A
template engine does not tell, so the template itself is made to: a marker of private-use
characters that carries the line's number is put before everything the template prints, the
marked template is rendered, and the markers are read off the output.

A marker must not change what is printed. It stands directly before the first visible character of
each line of text, where no whitespace control looks, and before each ``{{``. Where the expression
itself trims the text to its left (``{{-``), the marker becomes an expression of its own that trims
likewise. Whoever renders compares the stripped output with that of the unmarked template: a
template that looks at its own text (the length of a captured block, say) has no line map, but
never a wrong output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_START, _END, _ZERO = "\ue000", "\ue001", 0xE010
_MARKER = re.compile("\ue000([\ue010-\ue019]+)\ue001")
_OPENING = re.compile(r"\{\{|\{%|\{#")
_RAW = re.compile(r"\{%[-+]?\s*raw\s*[-+]?%\}")
_END_RAW = re.compile(r"\{%[-+]?\s*endraw\s*[-+]?%\}")
_TAG_END = {
    "{{": re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|(\}\})", re.DOTALL),
    "{%": re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|(%\})", re.DOTALL),
}
_FIRST_VISIBLE = re.compile(r"^([^\S\n]*)(?=\S)", re.MULTILINE)


def mark(template: str) -> str | None:
    """The template with a marker before all it prints; None where it uses the markers' characters."""
    if any(_START <= character <= "\ue019" for character in template):
        return None
    parts: list[str] = []
    line = 1
    for kind, piece in _pieces(template):
        if kind == "text":
            parts.append(_marked_text(piece, line))
        elif kind == "print":
            marker = _marker(line)
            parts.append(f'{{{{- "{marker}" }}}}{piece}' if piece.startswith("{{-") else marker + piece)
        else:
            parts.append(piece)
        line += piece.count("\n")
    return "".join(parts)


def unmark(output: str) -> tuple[str, tuple[int, ...]]:
    """The output without its markers, and for each of its lines the template's line (from 1)."""
    lines: list[int] = []
    last = 1
    for row in output.split("\n"):
        marks = list(_MARKER.finditer(row))
        lines.append(_number(_first_visible(row, marks)) if marks else last)
        last = _number(marks[-1]) if marks else last
    return _MARKER.sub("", output), tuple(lines)


def _first_visible(row: str, marks: list[re.Match[str]]) -> re.Match[str]:
    """The first marker with something visible between it and the next one; the first of all otherwise."""
    ends = [*(mark.start() for mark in marks[1:]), len(row)]
    return next(
        (mark for mark, end in zip(marks, ends, strict=True) if row[mark.end() : end].strip()), marks[0]
    )


def _pieces(template: str) -> Iterator[tuple[str, str]]:
    """The template cut into ``text``, ``print`` (``{{ … }}``) and ``silent`` (tags, comments)."""
    position = 0
    while position < len(template):
        opening = _OPENING.search(template, position)
        start = opening.start() if opening else len(template)
        if start > position:
            yield "text", template[position:start]
        if opening is None:
            return
        if raw := _RAW.match(template, start):
            closing = _END_RAW.search(template, raw.end())
            end = closing.start() if closing else len(template)
            yield "silent", raw[0]
            yield "text", template[raw.end() : end]
            position = closing.end() if closing else end
            yield "silent", template[end:position]
        else:
            position = _end_of_tag(template, start, opening[0])
            yield "print" if opening[0] == "{{" else "silent", template[start:position]


def _end_of_tag(template: str, start: int, opening: str) -> int:
    """Where the tag that begins at ``start`` ends; quoted text inside it may hold its delimiter."""
    if opening == "{#":
        end = template.find("#}", start)
        return len(template) if end < 0 else end + 2
    for token in _TAG_END[opening].finditer(template, start + 2):
        if token[1]:
            return token.end()
    return len(template)


def _marked_text(text: str, first_line: int) -> str:
    def insert(found: re.Match[str]) -> str:
        return found[1] + _marker(first_line + text.count("\n", 0, found.start()))

    return _FIRST_VISIBLE.sub(insert, text)


def _marker(line: int) -> str:
    return _START + "".join(chr(_ZERO + int(digit)) for digit in str(line)) + _END


def _number(marker: re.Match[str]) -> int:
    return int("".join(str(ord(character) - _ZERO) for character in marker[1]))
