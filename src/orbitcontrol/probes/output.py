"""What a command prints: bounded, with its beginning and end kept for the reason."""

from __future__ import annotations

from orbitcontrol.probes.reasons import printable

MOST = 1 << 20
"""Bytes after which a command prints too much to be a check."""

_KEPT = 200


class TooMuchOutput(Exception):
    """The command printed more than ``MOST`` bytes."""


class Output:
    """Takes what a command prints, piece by piece. ``started`` once it can print at all."""

    def __init__(self) -> None:
        self.started = False
        self._head = b""
        self._tail = b""
        self._total = 0

    def take(self, piece: bytes) -> None:
        """One more piece; b"" tells that the command has started. Raises TooMuchOutput."""
        self.started = True
        self._total += len(piece)
        missing = _KEPT - len(self._head)
        if missing > 0:
            self._head, piece = self._head + piece[:missing], piece[missing:]
        self._tail = (self._tail + piece[-_KEPT:])[-_KEPT:]
        if self._total > MOST:
            raise TooMuchOutput

    def __str__(self) -> str:
        """For people: one line."""
        whole = self._total <= len(self._head) + len(self._tail)
        parts = [self._head + self._tail] if whole else [self._head, self._tail]
        return " … ".join(printable(part.decode(errors="replace"), longest=2 * _KEPT) for part in parts)
