"""What reading commands print of the cluster: the shapes of their records."""

from __future__ import annotations

from msgspec import Struct

from orbitcontrol.model.state import Problem
from orbitcontrol.ops.rollout_views import RolloutView


class _Shown(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Base of what reading commands print as JSON: documented in docs/cli.md, and stable."""


class EndpointView(_Shown, frozen=True, kw_only=True):
    """One published endpoint."""

    service: str
    endpoint: str
    ip: str
    port: int
    revision: str
    zone: str
    machine: str
    state: str
    instance: int


class MachineView(_Shown, frozen=True, kw_only=True):
    """One machine; ``state`` is ``ready``, ``registering`` or ``gone`` (no lease).

    ``leaving_workers`` counts HAProxy's processes that finish old connections, as the machine last
    said; the oldest does so since ``leaving_since``, "" where there is none. ``reloaded`` is when HAProxy
    was told to load a configuration for the last time, and ``reload_reason`` why. ``drain`` is ``draining``
    while a machine that is to be empty is not, then ``drained``.
    """

    address: str
    state: str
    tags: tuple[str, ...]
    zone: str
    version: str
    session: str
    haproxy: str
    leaving_workers: int
    leaving_since: str
    reloaded: str
    reload_reason: str
    drain: str
    drain_since: str
    drain_deadline: str
    drain_user: str
    endpoints: int
    problems: tuple[Problem, ...]


class TagView(_Shown, frozen=True, kw_only=True):
    """What is bound to a tag, and which machines carry it."""

    tag: str
    services: tuple[str, ...]
    template: bool
    certs: tuple[str, ...]
    haproxy_files: tuple[str, ...]
    machines: tuple[str, ...]


class InstanceView(_Shown, frozen=True, kw_only=True):
    """One instance of a service on one machine."""

    machine: str
    instance: int
    state: str
    revision: str
    reason: str


class ServiceView(_Shown, frozen=True, kw_only=True):
    """One service: what is wanted and how many of its instances are published.

    ``wanted`` counts the instances that the machines which are alive now should run.
    """

    service: str
    revision: str
    revision_set_by: str
    image: str
    tags: tuple[str, ...]
    up: int
    wanted: int
    origin: str
    ci_url: str
    endpoints: tuple[EndpointView, ...]
    instances: tuple[InstanceView, ...]
    problems: tuple[Problem, ...]
    rollout: RolloutView | None
