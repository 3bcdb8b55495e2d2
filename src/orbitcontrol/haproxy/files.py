"""HAProxy's files on disk: written whole or not at all, readable by their owner alone.

A file is written beside its place, synced, renamed over it, and its directory synced: whoever
reads, at whatever moment, reads the old content or the new one.

Certificates and static files lie in a directory named after the contents that they had when HAProxy
loaded it (``certs/3f2a…/site.pem``). What HAProxy has not said yes to is written next to those that
run, not over them: the check of a new configuration reads the very paths that it will run with, and a
configuration put back finds its certificates. Only a certificate that HAProxy has exchanged at
runtime is replaced where it lies. ``docs/decisions/0006-haproxy-reloads.md`` weighs it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from orbitcontrol.atomicfile import replace_file, sync_directory
from orbitcontrol.errors import HAProxyError

BACKUPS = 3
"""How many earlier configurations are kept, as ``haproxy.cfg.1`` (the newest) to ``.3``."""

_CONTENTS_NAME = re.compile(r"[0-9a-f]{16}")


def read_text(path: Path) -> str | None:
    """The file's text; None where there is none."""
    try:
        return path.read_bytes().decode(errors="surrogateescape")  # as it is, carriage returns and all
    except FileNotFoundError:
        return None


def version(path: Path) -> tuple[int, ...] | None:
    """What differs when somebody has replaced or changed the file; None where that cannot be told."""
    try:
        return _version(path.stat())
    except OSError:
        return None


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def write_config(path: Path, text: str) -> tuple[int, ...]:
    """Replaces a configuration; its owner and mode stay. Its ``version`` from now on."""
    return _version(replace_file(path, text.encode(errors="surrogateescape"), keep_access=True))


def keep_backup(path: Path) -> None:
    """Keeps the file's present content as its newest backup; one that is kept already is not kept twice."""
    content = read_text(path)
    if content is None or content == read_text(_backup(path, 1)):
        return
    for number in range(BACKUPS, 1, -1):
        if (older := _backup(path, number - 1)).exists():
            older.replace(_backup(path, number))
    replace_file(_backup(path, 1), content.encode(errors="surrogateescape"))


def _backup(path: Path, number: int) -> Path:
    # not ``.cfg`` at the end: HAProxy started with a directory loads every file that has it
    return path.with_name(f"{path.name}.{number}")


def place_of(parent: Path, files: Mapping[str, str], *, text: str | None, loaded_anew: bool) -> Path:
    """The directory for these files: that of the configuration ``text``, if they can stay there.

    They can with the same names, because their contents can be exchanged; for a configuration that is
    to be ``loaded_anew`` only with the same contents.
    """
    used = named_in(parent, text)
    if used is None:
        return parent / contents_name(files)
    has_names = used.is_dir() and {entry.name for entry in used.iterdir()} == files.keys()
    if has_names and not (loaded_anew and differing(used, files)):
        return used
    name = contents_name(files)
    return parent / (contents_name({**files, "": name}) if name == used.name else name)


def named_in(parent: Path, text: str | None) -> Path | None:
    """The content directory that a configuration names."""
    found = re.search(rf"{re.escape(str(parent))}/({_CONTENTS_NAME.pattern})", text or "")
    return parent / found[1] if found else None


def differing(directory: Path, files: Mapping[str, str]) -> dict[str, str]:
    """The files that are not there with these contents."""
    return {name: content for name, content in files.items() if read_text(directory / name) != content}


def contents_name(files: Mapping[str, str]) -> str:
    """The name of a directory that is made for these files."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        for part in (name.encode(), content.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def write_files(directory: Path, files: Mapping[str, str]) -> None:
    """Fills a content directory; what is there already is left alone."""
    for name in files:
        _refuse_unsafe(name)
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    for name, content in differing(directory, files).items():
        replace_file(directory / name, content.encode())
    sync_directory(directory.parent)


def prune(parent: Path, config: Path) -> None:
    """Removes the content directories that neither the configuration nor a backup of it names.

    Whatever else lies in ``parent`` is somebody else's.
    """
    if not parent.is_dir():
        return
    texts = [read_text(config), *(read_text(_backup(config, n)) for n in range(1, BACKUPS + 1))]
    named = "\n".join(text for text in texts if text is not None)
    for entry in parent.iterdir():
        if _CONTENTS_NAME.fullmatch(entry.name) and f"{parent}/{entry.name}" not in named:
            shutil.rmtree(entry, ignore_errors=True)


def _refuse_unsafe(name: str) -> None:
    """File names come from the store: a single path component, or nothing is written."""
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(name.encode()) > 200:
        raise HAProxyError(
            f"{name!r} is no file name: it must be a single path component; rename it in the tree"
        )
