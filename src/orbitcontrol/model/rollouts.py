"""What machines and people write about rollouts: the records by which machines take turns.

The protocol that gives them their meaning is told in ``planning.rollouts``. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from orbitcontrol.model.service import Update

Cause = Literal["revision", "configuration", "relaunch"]
State = Literal["running", "paused", "failed", "complete"]
Outcome = Literal["complete", "failed", "superseded"]
Step = Literal["waiting", "pulling", "draining", "starting", "verifying", "done", "failed"]


class _Stored(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Base of every value written to the store: a JSON object with PascalCase keys."""


class Aim(_Stored, frozen=True, kw_only=True):
    """What a service is to run, or ran: a revision (None: the image's own tag) and a configuration.

    ``serial`` is that of the deployment that set the revision, ``generation`` that of the configuration.
    ``own`` when the revision stands, or stood, in the machine's own key.
    """

    revision: str | None = None
    serial: int = 0
    generation: int = 0
    own: bool = False


class Rollout(_Stored, frozen=True, kw_only=True):
    """``deployments/<service>/rollout``: the newest rollout of a service, running or over.

    ``machines`` are those it is for; without the field it is for all. ``previous`` is the last aim that was
    completed, None when nothing ever was. ``policy`` and ``slots`` (how many machines may be out together)
    are as they were when it began. ``promoted`` once people have let a canary go on. ``revert_of`` is the
    rollout that failed before this one, "" when people or a configuration began it.
    """

    id: str
    cause: Cause
    machines: tuple[str, ...] | UnsetType = UNSET
    target: Aim
    previous: Aim | None = None
    policy: Update = Update()
    slots: int = 1
    state: State = "running"
    reason: str = ""
    revert_of: str = ""
    promoted: bool = False
    user: str = ""
    started: str = ""

    def concerns(self, address: str) -> bool:
        """True when the machine takes part in it, if it runs the service."""
        return self.machines is UNSET or address in self.machines


class Past(_Stored, frozen=True, kw_only=True):
    """``deployments/<service>/history/<id>``: a rollout that is over.

    ``superseded``: another one began before its end. ``seconds`` is how long it took.
    """

    id: str
    cause: Cause
    machines: tuple[str, ...] | UnsetType = UNSET
    target: Aim
    previous: Aim | None = None
    outcome: Outcome
    reason: str = ""
    revert_of: str = ""
    user: str = ""
    started: str = ""
    ended: str
    seconds: float


class Slot(_Stored, frozen=True, kw_only=True):
    """``services/<service>/slots/<n>``: the leave to take a service out on one machine, for any reason.

    Not leased: the machine is out, or may be, also while its daemon is gone.
    """

    machine: str
    session: str
    reason: str
    rollout: str = ""
    step: Step = "waiting"


class Progress(_Stored, frozen=True, kw_only=True):
    """``services/<service>/progress/<address>``: that a machine runs the service, and how far it is.

    Its presence is what makes the machine one of those that should run the service; it goes when the service
    is not bound there any more. ``rollout`` is the newest that the machine takes part in, "" when it began
    without any; ``target`` the digest of what it is to run at the end of it. ``replaced`` when containers
    were replaced for it.
    """

    rollout: str = ""
    step: Step = "waiting"
    reason: str = ""
    target: str = ""
    replaced: bool = False


class Ack(_Stored, frozen=True, kw_only=True):
    """``services/<service>/acks/<endpoint Id>/<address>``, under the load balancer's lease.

    ``routed``: HAProxy has the endpoint in rotation. ``drained``: it gives it no new sessions in any of its
    processes, and ``sessions`` are left.
    """

    step: Literal["routed", "drained"]
    sessions: int = 0


class LoadBalancer(_Stored, frozen=True, kw_only=True):
    """``services/<service>/loadbalancers/<address>``: this machine routes to the service, or still may.

    ``check`` is the ``host:port`` of its daemon, ``binds`` are where its HAProxy listens.
    """

    check: str = ""
    binds: tuple[str, ...] = ()


class MachineDrain(_Stored, frozen=True, kw_only=True):
    """``drains/<address>``: this machine is to be emptied. ``deadline`` ends the wait for sessions.

    "" where it has none.
    """

    deadline: str = ""
    user: str = ""
    since: str = ""
