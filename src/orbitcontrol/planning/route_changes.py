"""What became of endpoints when a load balancer's HAProxy was changed, for the trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from orbitcontrol.codec.haproxy_text import Layout
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
        RouteChange(service=service, address=address, id=entries[address].id, step="out")
        for service, entries in before.items()
        for address in entries.keys() - after.get(service, {}).keys()
    ]
    come = [
        RouteChange(
            service=service,
            address=address,
            id=endpoint.id,
            step="routed" if endpoint.state == "up" else "draining",
        )
        for service, entries in after.items()
        for known in (before.get(service, {}),)
        for address, endpoint in entries.items()
        if (earlier := known.get(address)) is not endpoint and _is_new(earlier, endpoint)
    ]
    return (*sorted(gone, key=_place), *sorted(come, key=_place))


def named_in(layout: Layout, routes: Routes) -> dict[str, dict[str, Endpoint]]:
    """The routes that have a server in a configuration: a template may leave some out, by their zone."""
    addresses = {
        server.address.rpartition("@")[2]
        for section in layout.sections.values()
        for server in (*section.servers.values(), *section.others)
    }
    return {
        service: {address: endpoint for address, endpoint in entries.items() if address in addresses}
        for service, entries in routes.items()
    }


def _place(change: RouteChange) -> tuple[str, str]:
    return change.service, change.address


def _is_new(before: Endpoint | None, after: Endpoint) -> bool:
    return before is None or _visible(before) != _visible(after)


def _visible(endpoint: Endpoint) -> tuple[str, str, str, Mapping[str, str]]:
    """What a change of is one for HAProxy, too."""
    return endpoint.id, endpoint.state, endpoint.revision, endpoint.attributes
