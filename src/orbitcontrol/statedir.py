"""The daemon's state directory: small files replaced as a whole, and a lock that keeps others out."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from orbitcontrol.errors import OrbitError, UsageError


class StateDirectory:
    """A directory of mode 0700 that one daemon at a time has for itself.

    Raises ``UsageError`` when it cannot be made, and ``OrbitError`` when another daemon has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"{path}: cannot be used as --state-dir: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise OrbitError(
                f"{path}: another orbitctl daemon uses this state directory; "
                "stop it, or give this one its own --state-dir"
            ) from error

    def load(self, name: str) -> bytes | None:
        """The file's content; None when there is none or it cannot be read."""
        try:
            return (self.path / name).read_bytes()
        except OSError:
            return None

    def save(self, name: str, content: bytes) -> None:
        """Replaces the file by rename, mode 0600, on the disk before this returns."""
        temporary = self.path / f".{name}.new"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self.path / name)
            _sync_directory(self.path)
        except OSError as error:
            raise OrbitError(f"{self.path / name}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Lets another daemon have the directory."""
        os.close(self._lock)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
