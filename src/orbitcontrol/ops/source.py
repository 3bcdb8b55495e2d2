"""Where an import came from: the tree's git commit, whether it was clean, and a digest of its content.

git is asked, never needed: without it, or outside a repository, the digest alone says which tree it was.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from orbitcontrol.codec.entries import digest_input
from orbitcontrol.model.state import Source

_PATIENCE = 10.0


def source_of(directory: Path, entries: Mapping[str, bytes]) -> Source:
    """``commit`` is None where git knows none; ``dirty`` when the tree's folder differs from it."""
    commit = _git(directory, "rev-parse", "--verify", "HEAD")
    changes = _git(directory, "status", "--porcelain", "--", ".") if commit else ""
    return Source(
        commit=commit or None,
        dirty=bool(changes) or (bool(commit) and changes is None),
        digest="sha256:" + hashlib.sha256(digest_input(entries)).hexdigest(),
    )


def _git(directory: Path, *arguments: str) -> str | None:
    """What git prints, stripped; None when it is not installed, refuses, or takes too long."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(  # noqa: S603 -- fixed words; the directory is a separate argument
            ["git", "-C", str(directory), *arguments],  # noqa: S607 -- the person's own git
            capture_output=True,
            check=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
