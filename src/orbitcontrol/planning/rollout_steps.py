"""The steps of a rollout as values: what one machine does next for one service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from orbitcontrol.model.containers import ObservedContainer
from orbitcontrol.model.rollouts import Cause, Progress, Step
from orbitcontrol.model.runs import RunId
from orbitcontrol.planning.container_specs import OwnContainer, WantedContainer

Directive = Literal["hold", "expose", "drain"]
"""What is to become of a run's endpoint: *hold* it back, *expose* it and have load balancers confirm, *drain*
it and have them confirm. Without one an endpoint is published as always."""


class Rest(Struct, frozen=True):
    """Nothing is to be done until something changes."""


class Wait(Struct, frozen=True, kw_only=True):
    """Something is under way, or somebody is waited for; ``until`` is when to look again, None: an event."""

    step: Step
    reason: str = ""
    until: float | None = None


class Begin(Struct, frozen=True):
    """Begin a rollout for a change that nobody has begun one for."""

    cause: Cause
    reason: str


class Report(Struct, frozen=True):
    """Write this machine's progress; None ends its part in the service."""

    progress: Progress | None


class Take(Struct, frozen=True):
    """Take the slot of this number."""

    number: int
    reason: str


class Claim(Struct, frozen=True):
    """Take over the slot of this machine's earlier session."""

    number: int


class Evict(Struct, frozen=True):
    """Delete the slot of a machine that is proven gone."""

    number: int


class Expel(Struct, frozen=True):
    """Take a machine that is proven gone off the roster, until it comes back."""

    machine: str


class Advance(Struct, frozen=True):
    """Tell how far the holder of the slot is."""

    step: Step
    reason: str = ""


class GiveUp(Struct, frozen=True):
    """Take the drain back, because nobody confirms it, and try again after a pause."""

    reason: str


class Release(Struct, frozen=True):
    """Give the slot back, and tell how it ended; ``progress`` None: nothing runs here any more."""

    progress: Progress | None


class Stop(Struct, frozen=True):
    """Stop a container; ``keep`` it, under another name, for the way back."""

    own: OwnContainer
    keep: bool
    reason: str


class Start(Struct, frozen=True):
    """Create and start a container; containers ``beside`` it give up its name, and go on."""

    wanted: WantedContainer
    beside: tuple[OwnContainer, ...] = ()
    ended: tuple[ObservedContainer, ...] = ()
    reason: str = ""


class Revive(Struct, frozen=True):
    """Start a kept container again, under its old name."""

    own: OwnContainer
    wanted: WantedContainer
    ended: tuple[ObservedContainer, ...] = ()
    reason: str = ""


class Rename(Struct, frozen=True):
    """Give a container the name that it should have."""

    own: OwnContainer
    name: str


class Remove(Struct, frozen=True):
    """Remove a container that does not run."""

    own: OwnContainer
    reason: str


class Fail(Struct, frozen=True):
    """The machine has failed, and the rollout with it; ``container`` is the one whose log tells more."""

    reason: str
    container: str = ""


class Pause(Struct, frozen=True):
    """The canary is over: people decide."""

    reason: str


class Complete(Struct, frozen=True):
    """Every machine runs what is wanted of it."""


class Settle(Struct, frozen=True):
    """Remember what runs as what was last completed."""


Action = (
    Rest
    | Wait
    | Begin
    | Report
    | Take
    | Claim
    | Evict
    | Expel
    | Advance
    | GiveUp
    | Release
    | Stop
    | Start
    | Revive
    | Rename
    | Remove
    | Fail
    | Pause
    | Complete
    | Settle
)


class Plan(Struct, frozen=True, kw_only=True):
    """The next step, and what holds meanwhile.

    ``aim`` is what the machine is to run now: what ended is started again as that. While the plan is
    ``in_hand`` nobody else starts or removes containers of the service. ``arrived`` when all is as aimed at.
    """

    action: Action
    aim: tuple[WantedContainer, ...] = ()
    directives: Mapping[RunId, Directive] = {}
    in_hand: bool = False
    arrived: bool = False
