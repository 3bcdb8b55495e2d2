"""A rollout: how machines replace a service's containers in turn, with nobody in charge.

Each machine decides for itself, from what it sees of its own containers (``Local``) and from one
reading of the store (``Shared``), which single step it takes next (``plan``). Nothing of where it is in the
middle of a replacement is kept in the process: it follows from the containers that exist (the old one,
running or *kept*: stopped and renamed; the new one), from the endpoints that are published, and from the
slot and the progress in the store. So a daemon that was killed anywhere goes on from what it finds.

The states of one machine in one rollout, as ``progress/<address>`` tells them::

    waiting ──► (pulling) ──► waiting ──► takes a slot ──► draining ──► starting ──► verifying ──► done
                                 ▲                            │                          │
                                 └──── nobody confirms ───────┘              failed ◄────┘ (old one again)

*The slot.* ``slots/<n>`` is the leave to take a service out on one machine. It is not leased: who holds
it may have stopped something although its daemon is gone. All stops of a service that runs, whatever
their reason, need one. (The one exception is a new container that never was published: nobody uses it.)

*In the slot*, one instance after the other: drain the old container with acknowledgement
(``planning.rollout_acks``), stop it and keep it, start the new one, see it healthy for ``MinHealthyTime``,
publish it, wait until load balancers route to it, remove the old one. With ``Order: start-first`` the
new one comes first, and the old one drains when the load balancers have the new one.

*Which of two* revisions and configurations a machine runs: its ``target`` is what the store wants of it;
``settled`` is what it last ran when a rollout was complete. While it is not done it starts and restarts
``settled``, but for the steps of its own slot.

Why at most ``MaxParallel`` machines are out (I4), through crashes and races:

1. A slot is taken by a transaction that finds its number absent and none taken at or above ``Slots``. So
   there are at most ``Slots`` holders at any revision of the store, whatever each of them believes.
2. A slot ends only by its holder's transaction, when it serves again or gave up before it stopped anything,
   or by somebody who proved the holder gone (``planning.gone``). A new session of the holder's address takes
   it over first. So a machine that Orbit has taken out holds a slot until it is back.
3. *Take, then look.* Others can be out without a slot: their service failed, or they are lost. A holder
   looks, at a revision of the store not older than its slot, before it takes itself out: it counts machines
   that lack an endpoint, holders that have begun, and holders that took their slot before it. If that makes
   ``Slots`` others, it gives the slot back. Of two that take at the same time one has the lower revision, and
   the other sees it. Who is out already needs not look: nothing gets worse.
4. Whoever stops has compared its slot within one TTL, by a clock that goes on in sleep; nobody is proven gone
   before three TTLs have passed. A frozen daemon that wakes after that finds its slot taken away, and takes
   another before it stops anything.

Why no request is lost (I3): see ``planning.rollout_acks``. The old container is kept until the new one is
routed to, so every failure before that point ends with the old one serving again.

Why it ends: every wait has either a deadline or a name. A drain without confirmation is taken back after
``ACK_TIMEOUT``, and tried again with growing pauses; a container that is not healthy in time fails the
machine; a load balancer that does not confirm that it routes holds the slot, and is named; a machine that is
lost holds the rollout until it is proven gone, is back, or is forgotten.

Applying a step and planning again never repeats it (I8): each step changes what the next plan is made from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec import Struct

from orbitcontrol.model.rollouts import Ack, LoadBalancer, Progress, Rollout, Slot
from orbitcontrol.model.runs import RunId
from orbitcontrol.model.service import Relaunch, Update
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.container_specs import InstanceKey, OwnContainer, WantedContainer

ACK_TIMEOUT = 30.0
"""Seconds that load balancers have to confirm a drain before it is taken back."""

PROGRESS_DEADLINE = 600.0
"""Seconds after which an image that is still being pulled fails the machine."""


class Held(Struct, frozen=True):
    """A slot that is taken, and the revision of the store at which its key was last written."""

    slot: Slot
    revision: int


class Health(Struct, frozen=True, kw_only=True):
    """What is known of a run's health: ``since`` when its checks say the same, in seconds of the clock."""

    up: bool
    judged: bool
    since: float
    reason: str = ""


def is_up(health: Health | None) -> bool:
    """True for a run whose checks pass."""
    return health is not None and health.up


class Local(Struct, frozen=True, kw_only=True):
    """What a machine knows by itself of one service.

    ``bound`` is false when nothing wants it here any more, ``emptied`` when the machine is to be drained,
    ``out_of_time`` when the time for that is over; ``ttl`` is that of the machine's lease, in seconds.
    ``target`` and ``settled`` are containers (see above), ``settled`` None where nothing ever was.
    ``progress`` is what this machine last wrote. ``generation`` is that of the configuration in force,
    ``known`` the revision of the store at which it was read. ``own`` are all of its containers, ended ones
    too; ``ages`` how long they run, in seconds. ``processes`` are runs without a container. ``endpoints`` are
    those that this machine has published, by their run. ``images`` says of each image that is not there why
    it was given up, "" while it is pulled; ``failures`` why a container of an instance could not be started,
    by its hash. ``condemned`` runs are to be started anew. ``fresh`` runs began in this session, on
    a port of their own, and were never published: nobody can know of them, while any other may be in use.
    """

    address: str
    session: str
    service: str
    bound: bool = True
    emptied: bool = False
    out_of_time: bool = False
    has_endpoint: bool = True
    ttl: float = 10.0
    target: tuple[WantedContainer, ...] = ()
    settled: tuple[WantedContainer, ...] | None = None
    progress: Progress | None = None
    generation: int = 0
    known: int = 0
    update: Update = Update()
    relaunch: Relaunch = Relaunch()
    own: tuple[OwnContainer, ...] = ()
    processes: tuple[RunId, ...] = ()
    health: Mapping[RunId, Health] = {}
    ages: Mapping[RunId, float] = {}
    endpoints: Mapping[RunId, Endpoint] = {}
    images: Mapping[str, str] = {}
    failures: Mapping[tuple[InstanceKey, str], str] = {}
    condemned: Collection[RunId] = frozenset()
    fresh: Collection[RunId] = frozenset()


class Memory(Struct, frozen=True, kw_only=True):
    """What this process remembers between two steps, in seconds of the clock; losing it loses only time.

    ``marked`` says since when each endpoint is seen to drain, by its id; ``retry_at`` when to try again after
    a drain that nobody confirmed, and ``retries`` how often that happened. ``compared`` is when the last
    transaction that compared the slot began, ``joined`` when this machine began to take part, ``arrived``
    since when all is as aimed at, with the slot still in hand.
    """

    marked: Mapping[str, float] = {}
    retry_at: float = 0.0
    retries: int = 0
    compared: float = float("-inf")
    joined: float = 0.0
    arrived: float | None = None


class Roster(Struct, frozen=True, kw_only=True):
    """All machines that should run the service, from the same reading as the rest of ``Shared``.

    ``lacking`` are those with fewer endpoints that are up, or of a worker fewer healthy containers, than they
    should have; ``lost`` have no lease, ``emptied`` are to be drained, ``gone`` are proven gone.
    """

    progress: Mapping[str, Progress] = {}
    lacking: Collection[str] = frozenset()
    lost: Collection[str] = frozenset()
    emptied: Collection[str] = frozenset()
    gone: Collection[str] = frozenset()


class Shared(Struct, frozen=True, kw_only=True):
    """One reading of what all machines share of a service, at ``revision`` of the store.

    ``rollout_revision`` is the one at which the rollout's key was last written, 0 where there is none.
    ``balancers`` are those that may route to it; ``acks`` are by endpoint id and load balancer. ``alive`` are
    all machines that have a lease.
    """

    revision: int
    rollout: Rollout | None = None
    rollout_revision: int = 0
    slots: Mapping[int, Held] = {}
    roster: Roster = Roster()
    balancers: Mapping[str, LoadBalancer] = {}
    acks: Mapping[tuple[str, str], Ack] = {}
    alive: Collection[str] = frozenset()

    def waited_for(self) -> set[str]:
        """The machines without a lease that somebody may be waiting for."""
        holders = {held.slot.machine for held in self.slots.values()}
        return {*self.balancers, *holders, *self.roster.progress} - set(self.alive)

    def held_by(self, address: str) -> tuple[int, Held] | None:
        """The slot that the machine holds: its number and what stands there."""
        return next(
            ((number, held) for number, held in self.slots.items() if held.slot.machine == address), None
        )


def telling(local: Local) -> Progress | None:
    """The machine's progress, while it is on its way and tells of each step; None when it is not."""
    progress = local.progress
    if progress is None or not local.bound or local.emptied or progress.step in ("done", "failed"):
        return None
    return progress
