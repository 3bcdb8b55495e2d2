"""The words of a line of HAProxy's configuration, and what can be said of them without running it.

Quotes, escapes, comments and environment variables as in the configuration manual, 2.2 and 2.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

_SPACES = " \t\r\v\f"
"""What separates words: C's ``isspace``, not Unicode's."""

_WORD = re.compile(rf"[^{_SPACES}]+")
_TOKEN = re.compile(
    rf"""(?P<space>[{_SPACES}]+)|(?P<comment>\#.*)"""
    rf"""|(?P<word>(?:\\.|"(?:\\.|[^"\\])*"|'[^']*'|[^{_SPACES}\\"'\#]++)+)|(?P<odd>.)""",
    re.DOTALL,
)
_ESCAPE = re.compile(r"""\\(.)|"((?:\\.|[^"\\])*)"|'([^']*)'""", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_LINES = 1 << 12
"""So many lines are known by heart: a text is mostly that of a moment ago."""
_UNCLEAR = re.compile(r"[\0-\x08\x0e-\x1f\\]")


@lru_cache(maxsize=_LINES)
def words(line: str) -> tuple[str, ...]:
    """The words of a line without its comment, quotes and escapes resolved."""
    if not any(character in line for character in "#\\\"'"):
        return tuple(_WORD.findall(line))
    return tuple(_ESCAPE.sub(_resolved, match[0]) for match in _tokens(line))


@lru_cache(maxsize=_LINES)
def literal_words(line: str) -> tuple[str, ...] | None:
    """The words, if HAProxy surely reads the same ones, and takes each of them at runtime, too.

    None where something depends on its environment, is escaped, empty, or no text.
    """
    if _UNCLEAR.search(line) or ('"' in line and "$" in line):
        return None
    if not any(character in line for character in "#\"'"):
        return tuple(_WORD.findall(line))
    tokens = list(_tokens(line))
    found = tuple(_ESCAPE.sub(_resolved, match[0]) for match in tokens)
    return None if "" in found or any(match.lastgroup == "odd" for match in tokens) else found


@lru_cache(maxsize=_LINES)
def normal(line: str) -> str:
    """Two lines that say the same mostly have the same normal form; others never have."""
    if any(character in line for character in "\\\"'"):
        return line.strip(_SPACES)  # `a b` and `"a b"` are the same words joined
    return " ".join(words(line))


def end_of_word(line: str, number: int) -> int:
    """Where in the line its word with this number (from 1) ends."""
    is_plain = not any(character in line for character in "#\\\"'")
    return next(islice(_WORD.finditer(line) if is_plain else _tokens(line), number - 1, None)).end()


def _tokens(line: str) -> Iterator[re.Match[str]]:
    for match in _TOKEN.finditer(line):
        if match.lastgroup == "comment":
            break
        if match.lastgroup != "space":
            yield match


def _resolved(match: re.Match[str]) -> str:
    if match[2] is not None:
        return _ESCAPED.sub(r"\1", match[2])
    return match[1] or match[3] or ""
