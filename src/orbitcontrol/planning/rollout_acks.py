"""Acknowledged drain, the side of the machine that stops: who has to confirm, and who has.

Why no request goes to a container that is stopped (I3):

1. A load balancer registers under the service *before* its HAProxy routes to it, and lists the endpoints
   again after it has registered. The machine marks its endpoint as draining *before* it lists the load
   balancers. Whatever the order of the two, one sees the other: either the load balancer finds the mark, or
   the machine finds the load balancer and waits for it.
2. A load balancer confirms with a key of its own, under the endpoint's id, which is new with every
   publication: a confirmation of an earlier drain proves nothing of this one. It confirms when no process of
   its HAProxy can choose the endpoint any more, also none that leaves after a reload.
3. ``DrainTimeout`` bounds the wait for sessions that go on, never the wait for a confirmation.

A load balancer that is proven gone (``planning.gone``) is not waited for.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from msgspec import Struct

from orbitcontrol.model.rollouts import Ack
from orbitcontrol.planning.rollouts import ACK_TIMEOUT, Shared


class Draining(Struct, frozen=True):
    """Where a drain is: ``ended`` when the container may stop, ``unconfirmed`` when its time is over."""

    state: Literal["waits", "ended", "unconfirmed"]
    reason: str = ""
    until: float | None = None


def missing(shared: Shared, endpoint_id: str, step: str) -> list[str]:
    """The load balancers that have not confirmed the step of the endpoint, in order."""
    return sorted(
        address
        for address in shared.balancers
        if address not in shared.roster.gone and not _has(shared.acks.get((endpoint_id, address)), step)
    )


def _has(ack: Ack | None, step: str) -> bool:
    return ack is not None and ack.step == step


def draining(
    shared: Shared, endpoint_id: str, *, since: float, now: float, timeout: float, out_of_time: bool = False
) -> Draining:
    """Where the drain of an endpoint is that is marked ``since``; ``timeout`` is for its sessions."""
    waited = missing(shared, endpoint_id, "drained")
    if waited:
        over = since + ACK_TIMEOUT
        reason = f"waits for {names(waited)} to confirm that nothing goes there any more"
        return Draining("unconfirmed" if now >= over else "waits", reason, over)
    busy = {
        address: ack.sessions
        for (identity, address), ack in shared.acks.items()
        if identity == endpoint_id and address in shared.balancers and ack.sessions
    }
    over = since + timeout
    if not busy or now >= over or out_of_time:
        return Draining("ended")
    return Draining("waits", f"sessions go on at {names(busy)}", over)


def names(balancers: Collection[str]) -> str:
    """Load balancers, for people."""
    few = sorted(balancers)[:3]
    more = len(balancers) - len(few)
    return "load balancer " + ", ".join(few) + (f" and {more} more" if more else "")
