"""Entries of the store to a directory: what ``export`` and ``init`` write.

Everything is worked out before the first file is made, because names come from the store and a
half-written tree looks like a whole one. JSON is indented for people and diffs; loading it again
gives the entries it came from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from orbitcontrol.codec.entries import TAGS_FOLDER, TEXT_KINDS, decode_text, parse_key
from orbitcontrol.errors import OrbitError, TreeError, UndecodableValue

_PRIVATE = 0o600
_PUBLIC = 0o644


def files_of(entries: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a tree by relative path. Raises ``TreeError`` naming every entry that has none."""
    files: dict[str, bytes] = {}
    problems: list[str] = []
    for key, value in sorted(entries.items()):
        entry = parse_key(key)
        if entry is None:
            problems.append(
                f"config/{key}: no file of a tree can stand for this key; remove it from the store"
            )
            continue
        try:
            files[entry.path] = _content(key, value, is_text=entry.kind in TEXT_KINDS)
        except UndecodableValue as error:
            problems.append(str(error))
    if problems:
        raise TreeError(problems)
    return files


def write(files: Mapping[str, bytes], directory: Path) -> None:
    """Writes files into a directory that is absent or empty, with the folders that make it a tree.

    Certificates and their keys are readable by their owner alone. Raises ``OrbitError`` when
    something is in the directory already, or cannot be written.
    """
    try:
        require_empty(directory)
        for folder in ("services", TAGS_FOLDER):
            (directory / folder).mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            mode = _PRIVATE if target.parent.name == "certs" else _PUBLIC
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
    except OSError as error:
        raise OrbitError(f"{error.filename or directory}: cannot be written: {error.strerror}") from error


def require_empty(directory: Path) -> None:
    """Raises ``TreeError`` unless the directory is absent or empty."""
    if directory.is_dir():
        if any(directory.iterdir()):
            raise TreeError([f"{directory}: is not empty; name a new directory"])
    elif directory.exists():
        raise TreeError([f"{directory}: is not a directory; name a new one"])


def _content(key: str, value: bytes, *, is_text: bool) -> bytes:
    if is_text:
        return decode_text(value, key=key).encode()
    try:
        return (json.dumps(json.loads(value), ensure_ascii=False, indent=2) + "\n").encode()
    except (ValueError, RecursionError) as error:
        raise UndecodableValue(f"config/{key}: is not JSON: {error}") from error
