"""Values that outlive the daemon: each is JSON in one file of the state directory.

The first line is the format's version and the SHA-256 of the rest. A file that is missing, damaged
or of another version is the same as none: every loop that remembers something can begin without it,
only less smoothly.
"""

from __future__ import annotations

import hashlib
from typing import Generic, TypeVar

from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import UndecodableValue
from orbitcontrol.log import Log
from orbitcontrol.ports import StateFiles

_log = Log(__name__)

T = TypeVar("T")

_VERSION = "orbitcontrol-1"


class Remembered(Generic[T]):
    """One value of type ``expected`` in the file ``name``; ``default`` where there is none."""

    def __init__(self, files: StateFiles, name: str, expected: type[T], default: T) -> None:
        self._files = files
        self._name = name
        self._expected = expected
        self._default = default

    def load(self) -> T:
        """What was saved last."""
        content = self._files.load(self._name)
        if content is None:
            return self._default
        head, _, body = content.partition(b"\n")
        if head != _head(body):
            _log.warning("remembered value is damaged or of another version", file=self._name)
            return self._default
        try:
            return decode(body, self._expected, key=self._name)
        except UndecodableValue as error:
            _log.warning("remembered value cannot be read, beginning without it", reason=error)
            return self._default

    def save(self, value: T) -> None:
        """Replaces it. Raises ``OrbitError`` when the disk does not take it, with the old one in place."""
        body = encode(value)
        self._files.save(self._name, _head(body) + b"\n" + body)


def _head(body: bytes) -> bytes:
    return f"{_VERSION} {hashlib.sha256(body).hexdigest()}".encode()
