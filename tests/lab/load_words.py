"""What a load is asked to do, and what it tells: lines of JSON, each written when it happens.

Times are those of ``time.monotonic()``, which all processes of a machine share.
"""

from __future__ import annotations

from typing import Literal

import msgspec

FailureKind = Literal[
    "refused",  # nobody listens
    "unreachable",  # no way there, or no answer to the connect
    "reset",  # the connection was reset before a byte of the answer
    "closed",  # it was closed before a byte of the answer
    "truncated",  # it ended in the middle of the answer
    "status",  # another status than 200
    "wrong",  # an answer that is not what was asked for, as a body that is no echo
    "timeout",
    "unsent",  # too many requests open: the load was never what it says
]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Requests at a fixed rate, whatever becomes of them. Shares are of 1, and independent of each other.

    ``kept``: on connections that are kept, as long as there is one; else each on one of its own.
    ``posts``: with a body of ``body`` bytes, which has to come back. ``slow``: answers that take
    ``slow_seconds``, in turns before their first byte and in their middle.
    """

    targets: tuple[str, ...]
    rate: float
    kept: float = 0.5
    posts: float = 0.3
    slow: float = 0.33
    slow_seconds: float = 2.0
    body: int = 4096
    timeout: float = 15.0
    seed: int = 1


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request. ``reused``: on a connection that had carried one before."""

    at: float
    target: str
    method: str
    path: str
    reused: bool


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A request that was not answered as it should. ``at``: when that was known."""

    at: float
    kind: FailureKind
    detail: str
    request: Request


class Retry(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A request on a kept connection that was closed under it, tried once more on a new one.

    HTTP allows it (RFC 9110, 9.2.2): the server closed an idle connection while the request was on its
    way. Here only for GET, and only when the end came at once; what hung in between was lost in work.
    HAProxy ends a client's connection without a word, too, when it cannot reach the server that it chose for
    a request which is not the connection's first. So many of these around a change are a finding as well.
    """

    at: float
    request: Request


class Sighting(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first answer of a container through a target."""

    at: float
    target: str
    revision: str
    instance: str


class Summary(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The whole, in the end. ``behind``: the most seconds that a request was sent later than planned.

    ``closed_idle``: kept connections found closed when they were to be used; no request was on them.
    ``quick``: seconds that half, 99 of 100 and all of the quick answers took at most.
    """

    began: float
    ended: float
    sent: int
    answered: int
    closed_idle: int
    behind: float
    quick: tuple[float, float, float]
    answers: dict[str, int]
    """By revision."""
    last: dict[str, float]
    """When each revision answered last."""


Event = Failure | Retry | Sighting | Summary
