"""Reads a directory that people edit, without trusting it.

Links may point anywhere, a pipe may wait for ever, a file may be larger than the store. Nothing
outside the tree is read, nothing that is not a regular file is opened, and no more of a file than the
store could take. What is wrong becomes a finding; the walk goes on, so that one run names everything.

A tree has thousands of files, and nearly all are what they should be. Such a file in a folder that was
found usable is opened at once, in a way that follows no link and waits for nobody; everything that is not
so simple is looked at step by step, to say what is wrong with it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from orbitcontrol.model.findings import Finding

_UNREMARKABLE = frozenset({".git", ".github", ".gitignore", ".gitattributes", ".gitkeep", ".editorconfig"})


class TreeFiles:
    """The files of one tree by relative path; ``findings`` grows as they are read."""

    def __init__(self, root: Path, *, largest: int) -> None:
        self.findings: list[Finding] = []
        self._root = root
        self._real_root = root.resolve()
        self._largest = largest
        self._usable: set[str] = set()

    def problem(self, path: str, message: str) -> None:
        self.findings.append(Finding(file=path, message=message))

    def warning(self, path: str, message: str) -> None:
        self.findings.append(Finding(file=path, message=message, severity="warning"))

    def stray(self, path: str, why: str) -> None:
        """Notes something that the tree has no use for, unless every repository has it."""
        name = path.rpartition("/")[2]
        if name not in _UNREMARKABLE and not ("/" not in path and name.upper().startswith("README")):
            self.warning(path, f"ignored: {why}")

    def children(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none when it does not exist or cannot be used."""
        if not self.is_folder(folder):
            return []
        try:
            return sorted(os.listdir(self._root / folder))  # noqa: PTH208 -- only names are needed
        except OSError as error:
            self.problem(folder, f"cannot be listed: {_reason(error)}")
            return []

    def is_folder(self, path: str) -> bool:
        """Whether a usable directory is there; a link that leads nowhere or out of the tree is a problem."""
        if path in self._usable:
            return True
        usable = self._is(path, stat.S_ISDIR)
        if usable:
            self._usable.add(path)
        return usable

    def is_file(self, path: str) -> bool:
        """The same for a regular file."""
        return self._is(path, stat.S_ISREG)

    def exists(self, path: str) -> bool:
        """Whether anything has this name, a broken link too."""
        return os.path.lexists(self._root / path)

    def read(self, path: str) -> bytes | None:
        """A regular file's content, or None after noting why it cannot be had."""
        content = self._read_plain(path)
        if content is None:
            content = self._read_carefully(path)
        if content is not None and len(content) > self._largest:
            self.problem(path, f"is larger than the store takes ({self._largest:,} bytes); make it smaller")
            return None
        return content

    def _read_plain(self, path: str) -> bytes | None:
        """What a regular file holds that is no link, in a folder known to be usable; None for all else."""
        if (path.rpartition("/")[0] or ".") not in self._usable:
            return None
        try:
            descriptor = os.open(f"{self._root}/{path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                return None
            content = os.read(descriptor, min(state.st_size, self._largest) + 1)
            return content if len(content) == state.st_size or len(content) > self._largest else None
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def _read_carefully(self, path: str) -> bytes | None:
        if not self.exists(path) or not self._is_inside(path):
            return None
        if not self.is_file(path):
            self.problem(path, "is not a regular file; put a file here, or remove it")
            return None
        try:
            with (self._root / path).open("rb") as file:
                return file.read(self._largest + 1)
        except OSError as error:
            self.problem(path, f"cannot be read: {_reason(error)}")
            return None

    def _is(self, path: str, is_kind: Callable[[int], bool]) -> bool:
        if not self.exists(path) or not self._is_inside(path):
            return False
        try:
            mode = (self._root / path).stat().st_mode
        except OSError as error:
            self.problem(path, f"cannot be read: {_reason(error)}")
            return False
        return is_kind(mode)

    def _is_inside(self, path: str) -> bool:
        """Follows links to their end. Each faulty one is noted once, at the path that is the link."""
        try:
            target = (self._root / path).resolve(strict=True)
        except FileNotFoundError:
            self._note_link(path, "nothing is at its other end")
            return False
        except (OSError, RuntimeError) as error:  # Python before 3.13 calls a circle a RuntimeError
            if isinstance(error, OSError) and error.errno != errno.ELOOP:
                self._note(path, f"cannot be read: {_reason(error)}")
            else:
                self._note_link(path, "it leads in a circle")
            return False
        if target.is_relative_to(self._real_root):
            return True
        self._note_link(path, f"it leaves the tree (to {target})")
        return False

    def _note_link(self, path: str, why: str) -> None:
        self._note(path, f"this link cannot be used: {why}; put the file itself here")

    def _note(self, path: str, message: str) -> None:
        finding = Finding(file=path, message=message)
        if finding not in self.findings:
            self.findings.append(finding)


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
