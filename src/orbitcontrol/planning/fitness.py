"""Which endpoints of the own machine must get nothing, whatever the store says of them.

A machine that runs services and balances them learns of its own failures twice: from its checks and from
Docker at once, and from the store when the withdrawal has been there and back. While the store takes
no withdrawals the second way is closed, and the first one is proof enough on this machine: here the
endpoint is out, with nobody else in its place too, as if it had been withdrawn, and back as soon as
the checks say so. Other load balancers do not hear of it before the store is back.

It is applied whether or not the store can be reached, because it says nothing else than the withdrawal
that is on its way then. What is not known takes nothing out: containers that cannot be seen, checks
that have not decided.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct

from orbitcontrol.model.runs import Run, RunId, Verdict
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.endpoints import Address, address_of
from orbitcontrol.planning.rotation import Place, Routes


class Local(Struct, frozen=True, kw_only=True):
    """What the machine at ``address`` knows of its own runs; ``runs`` is None until they were looked at.

    ``unseen`` names services whose containers cannot be seen, ``stands_for`` says which run each
    endpoint, by its id, was published for.
    """

    address: str
    runs: Collection[Run] | None
    verdicts: Mapping[RunId, Verdict]
    unseen: Collection[str]
    stands_for: Mapping[str, RunId]


def unfit(routes: Routes, local: Local) -> dict[Place, str]:
    """The known endpoints of this machine that must get nothing, and why."""
    if local.runs is None:
        return {}
    runs = {address_of(run): run for run in local.runs if run.port}
    found: dict[Place, str] = {}
    for service, entries in routes.items():
        for address, endpoint in entries.items():
            if endpoint.machine != local.address:
                continue
            if reason := _reason(service, endpoint, runs.get(Address(service, address)), local):
                found[Place(service, address)] = reason
    return found


def _reason(service: str, endpoint: Endpoint, run: Run | None, local: Local) -> str:
    if run is None:
        return "" if service in local.unseen else "nothing of it runs there any more"
    verdict = local.verdicts.get(run.id)
    if verdict is not None and verdict.up:
        return ""
    if local.stands_for.get(endpoint.id, run.id) != run.id:
        return "its container ended, and the next one is not proven yet"
    return f"checks failed: {verdict.reason}" if verdict is not None and verdict.judged else ""
