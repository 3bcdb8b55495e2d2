"""A sequence in pieces: a transaction of the store takes only so much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batches(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """The items in their order, in lists of ``size`` at most."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
