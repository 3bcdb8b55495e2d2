"""The trace: which endpoints changed lately on this machine, why and when, for ``orbitctl why``.

The way of an endpoint leads over machines: its own asks the checks and writes the store, each load
balancer reads the store and changes its HAProxy. No machine sees all of it, so each keeps its part, and
tells it in its record in the store, where ``planning.ways`` puts the parts together.

The trace is bounded twice: of one endpoint it keeps the newest change of each step, and of all together
the newest ``KEPT``. It costs no write of its own, because it goes with the record: at most one a second
while something changes, none at rest. After a restart of the daemon it goes on from the record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import structs

from orbitcontrol.model.state import EndpointChange, Step

if TYPE_CHECKING:
    from orbitcontrol.agent.board import Wake

KEPT = 50
_LONGEST_REASON = 120

_Key = tuple[str, str, str]


class Trace:
    """The newest changes of one machine. ``clock`` gives the seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._changes: dict[_Key, EndpointChange] = {}
        self._subscribers: list[Wake] = []

    @property
    def changes(self) -> tuple[EndpointChange, ...]:
        """What is kept, the oldest first."""
        return tuple(self._changes.values())

    def subscribe(self, wake: Wake) -> None:
        """Rings ``wake`` at each change, with the reason "trace"."""
        self._subscribers.append(wake)

    def note(
        self,
        *,
        service: str,
        endpoint: str,
        step: Step,
        id: str = "",
        reason: str = "",
        revision: int = 0,
    ) -> None:
        """Something has happened to an endpoint (``host:port``) at this moment.

        ``id`` is that of its publication, where one is known; ``revision`` the store's after the write
        that this was, 0 where it was none.
        """
        self._put(
            EndpointChange(
                service=service,
                endpoint=endpoint,
                id=id,
                step=step,
                reason=reason if len(reason) <= _LONGEST_REASON else reason[: _LONGEST_REASON - 1] + "…",
                at=_worded(self._clock()),
                revision=revision,
            )
        )
        while len(self._changes) > KEPT:
            del self._changes[next(iter(self._changes))]
        for wake in self._subscribers:
            wake.ring("trace")

    def link(self, *, service: str, endpoint: str, step: Step, id: str) -> None:
        """Says which publication, or end of one, the newest such step has led to, if none is known yet."""
        key = (service, endpoint, step)
        cause = self._changes.get(key)
        if cause is not None and not cause.id:
            self._changes[key] = structs.replace(cause, id=id)

    def resume(self, changes: Iterable[EndpointChange]) -> None:
        """Goes on from what an earlier daemon of this machine had told; what was noted since is newer."""
        newer = self.changes
        self._changes.clear()
        for change in (*changes, *newer):
            self._put(change)
        for key in list(self._changes)[:-KEPT]:
            del self._changes[key]

    def _put(self, change: EndpointChange) -> None:
        key = (change.service, change.endpoint, change.step)
        self._changes.pop(key, None)
        self._changes[key] = change


def _worded(moment: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    text = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
