"""What is to become of endpoints while a machine is between two steps of a rollout."""

from __future__ import annotations

from collections.abc import Mapping

from orbitcontrol.model.runs import RunId
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.rollout_steps import Directive
from orbitcontrol.planning.rollouts import Local


def as_marked(local: Local) -> dict[RunId, Directive]:
    """Everything stays as it is: what was begun goes on, and what has not proven itself is held back."""
    unproven: dict[RunId, Directive] = {run: "hold" for run in local.fresh if run not in local.endpoints}
    return {**held_back(local), **unproven, **begun(local.endpoints)}


def begun(endpoints: Mapping[RunId, Endpoint]) -> dict[RunId, Directive]:
    """What load balancers are asked to confirm of these goes on."""
    return {
        run: "drain" if endpoint.state == "draining" else "expose"
        for run, endpoint in endpoints.items()
        if endpoint.ack
    }


def held_back(local: Local) -> dict[RunId, Directive]:
    """Runs that are not published for now: of others' processes, on a machine that is to be drained."""
    if not local.emptied:
        return {}
    return {run: "hold" for run in local.processes if run not in local.endpoints}


def drains(local: Local, run: RunId) -> bool:
    """True when the run's endpoint is marked to drain."""
    endpoint = local.endpoints.get(run)
    return endpoint is not None and endpoint.state == "draining"
