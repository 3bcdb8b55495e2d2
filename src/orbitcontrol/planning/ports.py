"""Which host port a new container gets: the one that was unused for the longest time.

Docker hands a freed port to the next container at once, and a load balancer that has not heard of
it yet would send one service's requests to another. So Orbit picks the port itself, never one that
is in use, and of the others the one whose last use is the longest ago. A port that somebody else
on the machine holds is marked as used now, which sends it to the end of the queue.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

Ledger = Mapping[int, float]
"""When each port was last known to be in use, in seconds since the epoch; absent: never."""


class PortRange(Struct, frozen=True):
    """The ports that Orbit may pick, both ends included."""

    first: int
    last: int

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def pick_port(within: PortRange, *, used: Collection[int], ledger: Ledger) -> int | None:
    """The port to use next; None when all of the range are in use."""
    free = (port for port in range(within.first, within.last + 1) if port not in used)
    return min(free, key=lambda port: (ledger.get(port, 0.0), port), default=None)


def marked(ledger: Ledger, ports: Iterable[int], *, within: PortRange, now: float) -> dict[int, float]:
    """The ledger after ``ports`` were seen in use; ports outside the range are left out and dropped."""
    kept = {port: used for port, used in ledger.items() if port in within}
    return kept | {port: now for port in ports if port in within}
