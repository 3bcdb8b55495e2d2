"""Which orphans' servers HAProxy looks after by itself, as its configuration says.

A server does with ``check`` or ``track`` on its line or from a ``default-server`` in its scope. One
whose name begins with ``nocheck-`` is its author's: Orbit never takes it out.
"""

from __future__ import annotations

from collections.abc import Iterable

from orbitcontrol.codec.haproxy_text import UNTOUCHED, Layout
from orbitcontrol.planning.rotation import Place


def checked_servers(layout: Layout, places: Iterable[Place]) -> frozenset[Place]:
    """Those of the places that have servers, every one of which HAProxy looks after."""
    wanted: dict[str, set[Place]] = {}
    for place in places:
        for key in (place.address, f"{place.service}-{place.address}"):
            wanted.setdefault(key, set()).add(place)
    verdicts: dict[Place, bool] = {}
    for section in layout.sections.values() if wanted else ():
        for server in (*section.servers.values(), *section.others):
            address = server.address.rpartition("@")[2]
            found = wanted.get(address, set()) | wanted.get(server.name.removeprefix(UNTOUCHED), set())
            for place in found:
                verdicts[place] = verdicts.get(place, True) and (
                    server.checked or server.name.startswith(UNTOUCHED)
                )
    return frozenset(place for place, checked in verdicts.items() if checked)
