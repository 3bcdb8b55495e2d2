"""How long an instance that keeps failing its checks waits before it is published again.

Each publication and each withdrawal is a write to the store and a reload of every load balancer that
routes to the service. An instance that goes up and down all the time therefore waits after its
third withdrawal: 2 s, then doubling to a minute. Only the publication waits. A withdrawal is never
delayed, and ten calm minutes forget everything.
"""

from __future__ import annotations

from msgspec import Struct

FREE = 3
LONGEST = 60.0
CALM = 600.0
_ENOUGH_DOUBLINGS = 10


class Flapping(Struct, frozen=True):
    """Withdrawals in a row for failed checks, and when the last was. Any clock that goes forward."""

    withdrawals: int = 0
    last: float = 0.0


def withdrawn(flapping: Flapping, *, now: float) -> Flapping:
    """After one more withdrawal."""
    calm = now - flapping.last >= CALM
    return Flapping(1 if calm else flapping.withdrawals + 1, now)


def publishable_at(flapping: Flapping) -> float:
    """When the instance may be published again."""
    extra = flapping.withdrawals - FREE
    return flapping.last + (min(2.0 ** min(extra + 1, _ENOUGH_DOUBLINGS), LONGEST) if extra >= 0 else 0.0)
