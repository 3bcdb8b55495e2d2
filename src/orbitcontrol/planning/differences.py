"""Two versions of a value told apart for a person, without telling a secret.

Values of environment variables, passwords, user names, tokens, request headers and broker addresses
never appear; that they changed does. The same holds for anything whose name sounds like a secret, for
credentials inside a URL, and for the lines of a template that carry a password.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from typing import Any

from orbitcontrol.codec.wording import element, member

HIDDEN = "(hidden)"
UNSET = "(not set)"

_SECRET_FIELDS = frozenset({"username", "password", "oauthtoken", "oauth", "amqpurl"})
_SECRET_MAPS = frozenset({"headers"})
_SECRET_NAME = re.compile(r"(?i)passw|secret|token|credential|api[-_]?key|private[-_]?key")
_CREDENTIALS_IN_URL = re.compile(r"(?<=://)[^/@\s\"']+(?=@)")
_SECRET_IN_LINE = re.compile(r"(?i)\b((?:insecure-)?password|stats\s+auth|authorization|secret|token)\b.*")
_MOST_LINES = 40
_LONGEST = 160


def differences(before: Any, after: Any) -> Iterator[str]:
    """One line a difference: ``Container.Config.Image: nginx:1 → nginx:2``."""
    yield from _differences(before, after, "", key="")


def text_differences(before: str, after: str) -> Iterator[str]:
    """One line for each removed or added line, numbered as in its own version; a bounded number."""
    lines = list(_changed_lines(before.split("\n"), after.split("\n")))
    yield from lines[:_MOST_LINES]
    if len(lines) > _MOST_LINES:
        yield f"… and {len(lines) - _MOST_LINES} more lines"


def hide(value: Any, *, key: str = "") -> Any:
    """The value with its secrets replaced; ``key`` is the name that it stands under."""
    if _is_secret(key):
        return HIDDEN
    if isinstance(value, dict):
        all_secret = key.lower() in _SECRET_MAPS
        return {name: HIDDEN if all_secret else hide(item, key=name) for name, item in value.items()}
    if isinstance(value, list):
        return [_hide_variable(item) if key == "Env" else hide(item, key=key) for item in value]
    return _CREDENTIALS_IN_URL.sub(HIDDEN, value) if isinstance(value, str) else value


def _hide_variable(entry: Any) -> str:
    return f"{str(entry).partition('=')[0]}={HIDDEN}"


def _is_secret(key: str) -> bool:
    return key.lower() in _SECRET_FIELDS or _SECRET_NAME.search(key) is not None


def _differences(before: Any, after: Any, path: str, *, key: str) -> Iterator[str]:
    if before == after and type(before) is type(after):
        return
    match before, after:
        case _ if _is_secret(key):
            yield f"{path}: {_change(before, after, key)}"
        case (dict(), dict()) if key.lower() in _SECRET_MAPS:
            yield from _secret_members(before, after, path)
        case dict(), dict():
            for name in sorted(before.keys() | after.keys()):
                yield from _member(before, after, name, path)
        case (list(), list()) if key == "Env":
            yield from _secret_members(_environment(before), _environment(after), path)
        case list(), list():
            for index in range(max(len(before), len(after))):
                pair = [side[index : index + 1] or [None] for side in (before, after)]
                yield from _differences(pair[0][0], pair[1][0], element(path, index), key=key)
        case _:
            yield f"{path}: {_change(before, after, key)}"


def _member(before: dict[str, Any], after: dict[str, Any], name: str, path: str) -> Iterator[str]:
    where = member(path, name)
    if name in before and name in after:
        yield from _differences(before[name], after[name], where, key=name)
    else:
        yield f"{where}: {_change(before.get(name), after.get(name), name)}"


def _change(before: Any, after: Any, key: str) -> str:
    old, new = (_shown(value, key) for value in (before, after))
    if old == new:  # both hidden, or cut short before they differ
        return "changed (value hidden)"
    return f"{old} → {new}"


def _secret_members(before: dict[str, Any], after: dict[str, Any], path: str) -> Iterator[str]:
    """Names alone, of a map whose values are all secret."""
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            yield f"{path}: {name} added (value hidden)"
        elif name not in after:
            yield f"{path}: {name} removed"
        elif before[name] != after[name]:
            yield f"{path}: {name} changed (value hidden)"


def _environment(entries: list[Any]) -> dict[str, str]:
    pairs = (str(entry).partition("=") for entry in entries)
    return {name: separator + value for name, separator, value in pairs}


def _shown(value: Any, key: str) -> str:
    if value is None:
        return UNSET
    hidden = hide(value, key=key)
    text = hidden if isinstance(hidden, str) else json.dumps(hidden, ensure_ascii=False)
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return printable if len(printable) <= _LONGEST else printable[: _LONGEST - 1] + "…"


def _changed_lines(before: list[str], after: list[str]) -> Iterator[str]:
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for tag, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        if tag == "equal":
            continue
        for number in range(old_start, old_end):
            yield f"line {number + 1}: - {_line(before[number])}"
        for number in range(new_start, new_end):
            yield f"line {number + 1}: + {_line(after[number])}"


def _line(line: str) -> str:
    return _shown(_SECRET_IN_LINE.sub(rf"\1 {HIDDEN}", line), "")
