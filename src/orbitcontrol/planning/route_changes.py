"""What became of endpoints when a load balancer's HAProxy was changed, for the trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.rotation import Routes


class RouteChange(Struct, frozen=True, kw_only=True):
    """One endpoint that is routed to now, gets no new connections any more, or is out."""

    service: str
    address: str
    id: str
    step: Literal["routed", "draining", "out"]


def changes_of(before: Routes, after: Routes) -> tuple[RouteChange, ...]:
    """What is different for each endpoint, those that went out first.

    Another ``Id`` at the same address is another publication, and other attributes may be another line in
    HAProxy: both are routed to anew.
    """
    gone = [
        RouteChange(service=service, address=address, id=endpoint.id, step="out")
        for service, entries in sorted(before.items())
        for address, endpoint in sorted(entries.items())
        if address not in after.get(service, {})
    ]
    come = [
        RouteChange(
            service=service,
            address=address,
            id=endpoint.id,
            step="routed" if endpoint.state == "up" else "draining",
        )
        for service, entries in sorted(after.items())
        for address, endpoint in sorted(entries.items())
        if _is_new(before.get(service, {}).get(address), endpoint)
    ]
    return (*gone, *come)


def named_in(text: str, routes: Routes) -> dict[str, dict[str, Endpoint]]:
    """The routes whose addresses stand in a configuration: a template may leave some out, by their zone."""
    words = {word.rpartition("@")[2] for word in text.split()}
    return {
        service: {address: endpoint for address, endpoint in entries.items() if address in words}
        for service, entries in routes.items()
    }


def _is_new(before: Endpoint | None, after: Endpoint) -> bool:
    return before is None or _visible(before) != _visible(after)


def _visible(endpoint: Endpoint) -> tuple[str, str, str, Mapping[str, str]]:
    """What a change of is one for HAProxy, too."""
    return endpoint.id, endpoint.state, endpoint.revision, endpoint.attributes
