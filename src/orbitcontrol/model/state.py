"""What the store holds besides the tree: who is alive, what is healthy, which revision is wanted."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field


class _Stored(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Base of every value written to the store: a JSON object with PascalCase keys."""


class Source(_Stored, frozen=True, kw_only=True):
    """Which tree was imported: git commit, whether it had uncommitted changes, digest of its content."""

    commit: str | None = None
    dirty: bool = False
    digest: str = ""


class ConfigMeta(_Stored, frozen=True, kw_only=True):
    """``config/meta``. ``generation`` grows by one with each import that changes something.

    ``epoch`` is random and new with the first import into an empty store. ``continues`` is what
    people have confirmed after a loss: this store goes on where an epoch ended, up to a generation.
    """

    format_version: int = 1
    epoch: str
    generation: int
    state: Literal["complete", "applying"] = "complete"
    import_id: str | None = field(default=None, name="Import")
    imported_at: str
    imported_by: str
    source: Source = Source()
    continues: dict[str, int] = {}


class Deployment(_Stored, frozen=True, kw_only=True):
    """``deployments/<service>/revision`` and ``…/machines/<address>``.

    A null revision means "back to the image's own tag". ``serial`` only grows.
    ``deployment_time`` is RFC 3339 in UTC.
    """

    revision: str | None
    serial: int
    deployment_time: str
    user: str


class Revisions(Struct, frozen=True, kw_only=True):
    """The deployments that concern one machine, by service: its own where there is one.

    ``broken`` says by service why its deployment cannot be read.
    """

    service_wide: dict[str, Deployment] = {}
    of_machine: dict[str, Deployment] = {}
    broken: dict[str, str] = {}


class Endpoint(_Stored, frozen=True, kw_only=True):
    """``services/<service>/endpoints/<host:port>``, under the machine's lease.

    ``id`` is new with every publication; ``instance`` counts from 1.
    """

    id: str
    machine: str
    session: str
    instance: int = 1
    revision: str = ""
    state: Literal["up", "draining"] = "up"
    ack: bool = False
    availability_zone: str = ""
    attributes: dict[str, str] = {}


class Alive(_Stored, frozen=True, kw_only=True):
    """``alive/<address>``, under the machine's lease.

    ``registered`` becomes true once each of the machine's services has been judged.
    """

    session: str
    registered: bool = False


class Problem(_Stored, frozen=True, kw_only=True):
    """Something wrong on a machine: ``subject`` ("service web", "haproxy", "docker") and why."""

    subject: str
    reason: str


class ProxyVerdict(_Stored, frozen=True, kw_only=True):
    """What the machine's HAProxy said of the template of a generation, which only its epoch makes unique."""

    epoch: str = ""
    generation: int
    accepted: bool
    error: str = ""


class Reload(_Stored, frozen=True, kw_only=True):
    """One reload of HAProxy. ``at`` is RFC 3339 in UTC, ``size`` the number of lines that changed.

    ``refused``: HAProxy did not take the configuration; ``failed``: it could not be told to, or nobody
    can tell.
    """

    at: str
    reason: str
    size: int
    seconds: float
    outcome: Literal["loaded", "refused", "failed"]


class ProxyWorkers(_Stored, frozen=True, kw_only=True):
    """The machine's HAProxy processes that finish old connections after reloads.

    ``since`` is when the oldest of them began to leave, at the latest: RFC 3339 in UTC.
    """

    leaving: int
    since: str


class InstanceReport(_Stored, frozen=True, kw_only=True):
    """One instance of a service as its machine last saw it.

    ``revision``, who had set it (``image``, ``service`` or ``machine``) and with which serial are
    those of the container that runs, by its labels; of the one that is wanted while none runs.
    ``generation`` is that of the configuration by which it was judged, 0 for what is not a container, and
    ``outdated`` whether the container that runs is another than the one that is wanted by it.
    """

    service: str
    instance: int
    state: str
    reason: str = ""
    revision: str = ""
    revision_source: str = ""
    serial: int = 0
    generation: int = 0
    outdated: bool = False


Step = Literal["proven", "failed", "ended", "published", "updated", "withdrawn", "routed", "draining", "out"]
"""What can happen to an endpoint. Its machine: its checks have *proven* it or have *failed*, its container
has *ended*; its key was *published*, *updated* (other attributes), *withdrawn*. A load balancer: HAProxy
has it in rotation (*routed*), gives it no new connections (*draining*), has it no more (*out*)."""


class EndpointChange(_Stored, frozen=True, kw_only=True):
    """Something that happened to an endpoint on the machine that tells of it.

    ``id`` is the publication's, "" where there is none; ``step`` is a ``Step``, or one that a later
    version knows; ``at`` is RFC 3339 in UTC with milliseconds, by that machine's clock; ``revision`` is the
    store's after the write that it was, or 0.
    """

    service: str
    endpoint: str
    id: str = ""
    step: str
    reason: str = ""
    at: str
    revision: int = 0


class MachineRecord(_Stored, frozen=True, kw_only=True):
    """``machines/<address>``: kept after the machine is gone, until it is forgotten.

    ``epoch`` and ``generation`` are those of the configuration that the machine trusts; ``holding``
    says why it does not trust the store's, "" when it does. ``held`` is what of that configuration the
    machine cannot follow and leaves as it was. ``proxy_workers`` is null while none leaves. ``balances``
    names the services that its HAProxy routes to; ``changes`` are its newest ones, the oldest first
    (``agent.trace``). ``reload`` is HAProxy's last one.
    """

    tags: tuple[str, ...] = ()
    availability_zone: str = ""
    version: str = ""
    check: str = ""
    epoch: str = ""
    generation: int = 0
    holding: str = ""
    held: tuple[Problem, ...] = ()
    proxy: ProxyVerdict | None = None
    proxy_workers: ProxyWorkers | None = None
    reload: Reload | None = None
    instances: tuple[InstanceReport, ...] = ()
    problems: tuple[Problem, ...] = ()
    balances: tuple[str, ...] = ()
    changes: tuple[EndpointChange, ...] = ()


class MachineStatus(MachineRecord, frozen=True, kw_only=True):
    """What the daemon tells on its own machine: its record, and the newest reloads of HAProxy."""

    reloads: tuple[Reload, ...] = ()
