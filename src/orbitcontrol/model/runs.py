"""A run: one instance of a service from its start to its end, the thing that checks prove.

A container that is replaced or restarted is another run, and what was proven of the old one says
nothing about it. A service without a container is a single run for as long as it is configured.
"""

from __future__ import annotations

from msgspec import Struct

from orbitcontrol.model.configuration import EffectiveService


class RunId(Struct, frozen=True, order=True):
    """Which run: service, instance (from 1), and container id with its start time ("" without)."""

    service: str
    instance: int = 1
    container_id: str = ""
    started_at: str = ""


class Run(Struct, frozen=True, kw_only=True):
    """A running instance. ``port`` is 0 for a worker: checked, never published."""

    id: RunId
    effective: EffectiveService
    host: str
    port: int
    revision: str = ""


class Verdict(Struct, frozen=True, kw_only=True):
    """What the checks say of a run now.

    ``judged`` is false until they have decided for the first time: every check passed ``Rise``
    times, or one failed ``Fall`` times. ``reason`` is the last failing check's, "" while up.
    """

    up: bool
    judged: bool
    reason: str = ""


class ProbeResult(Struct, frozen=True):
    """One answer of one check; ``detail`` says what came back, for people.

    ``counts`` is false when nothing was learned of the run: the question could not be put (no file
    descriptors left, Docker is silent) or the run says itself that it is still starting.
    """

    passed: bool
    detail: str = ""
    counts: bool = True
