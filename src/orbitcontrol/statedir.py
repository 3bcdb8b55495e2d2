"""The daemon's state directory: small files replaced as a whole, and a lock that keeps others out."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orbitcontrol.atomicfile import replace_file
from orbitcontrol.errors import OrbitError, UsageError

_MACHINE_ID = Path("/etc/machine-id")


def machine_id() -> str:
    """What machine-id(5) says this machine is; "" where it says nothing."""
    try:
        return _MACHINE_ID.read_text().strip()
    except OSError:
        return ""


class StateDirectory:
    """A directory of mode 0700, made when it is missing. Raises ``UsageError`` when it cannot be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{path}: cannot be used as --state-dir: {error.strerror}") from error

    def load(self, name: str) -> bytes | None:
        """The file's content; None when there is none or it cannot be read."""
        try:
            return (self._path / name).read_bytes()
        except OSError:
            return None

    def save(self, name: str, content: bytes) -> None:
        """Replaces the file, mode 0600; it is on the disk when this returns."""
        try:
            replace_file(self._path / name, content)
        except OSError as error:
            raise OrbitError(f"{self._path / name}: cannot be written: {error.strerror}") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other daemons out. Raises ``OrbitError`` when one is in already."""
        try:
            descriptor = os.open(self._path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"{self._path}: cannot be used as --state-dir: {error.strerror}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise OrbitError(
                    f"{self._path}: another orbitctl daemon uses this state directory; "
                    "stop it, or give this one its own --state-dir"
                ) from error
            yield
        finally:
            os.close(descriptor)
