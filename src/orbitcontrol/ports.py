"""What the inner layers ask of the outside world.

The agent and the use cases of people are written against these protocols; the adapters beside
each other in ``store``, ``docker``, ``haproxy`` and ``probes`` fulfil them and never meet.
Every method may raise the ``OrbitError`` of its own family and nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

from orbitcontrol.model.configuration import ProxyConfiguration
from orbitcontrol.model.containers import (
    ContainerEvent,
    ContainerHealth,
    ContainerSpec,
    ObservedContainer,
    ObservedImage,
)
from orbitcontrol.model.runs import ProbeResult, Run
from orbitcontrol.model.service import Check
from orbitcontrol.model.stored import (
    Changes,
    Compare,
    KeyValue,
    Limits,
    Operation,
    Range,
    Reading,
)

if TYPE_CHECKING:  # commands need a store alone, and would pay for HAProxy's modules at each start
    from orbitcontrol.codec.haproxy import CheckResult
    from orbitcontrol.codec.haproxy_runtime import Command, Running
    from orbitcontrol.codec.haproxy_stat import StatRow
    from orbitcontrol.planning.leaving_workers import LeavingWorker
    from orbitcontrol.planning.proxy import Directories, Life
    from orbitcontrol.planning.servers import Place


class Store(Protocol):
    """A strongly consistent key-value store with revisions, watches and leases.

    Every call ends within ``call_timeout`` seconds: with an answer, or with ``StoreUnreachable``.
    """

    @property
    def address(self) -> str:
        """The store as messages name it: ``etcd://10.0.0.1:2379``, ``sqlite:///var/lib/…``."""

    @property
    def limits(self) -> Limits:
        """The most that one ``commit`` takes."""

    async def get(self, key: str) -> KeyValue | None:
        """The key as it is now; None where there is none."""

    async def read(self, *ranges: Range) -> Reading:
        """All keys of all ranges, as they were together at one revision."""

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        """Applies all operations if all comparisons hold; returns the store's revision after it.

        Raises ``StoreConflict`` when a comparison fails, ``LeaseLost`` when a put names a lease
        that is gone, ``StoreTooLarge`` beyond ``limits``, ``StoreAmbiguous`` when the connection
        was lost before the answer. Operations must not touch a key twice.
        """

    def watch(self, range: Range, *, after: int) -> AbstractAsyncContextManager[AsyncIterator[Changes]]:
        """The changes inside the range with a revision above ``after``, in order, none left out.

        The iterator never ends by itself. It raises ``Compacted`` when changes after that revision
        are gone, ``StoreUnreachable`` when the connection broke or fell silent, ``StoreRefused``
        for lack of permission: the caller lists again, compares, and watches from there
        (``store.mirror`` does that once for all).
        """

    async def grant(self, ttl: float) -> int:
        """A new lease of ``ttl`` seconds; its id, never 0."""

    async def keep_alive(self, lease: int) -> float:
        """Renews the lease; seconds it has from now. Raises ``LeaseLost`` when there is none."""

    async def lease_keys(self, lease: int) -> frozenset[str]:
        """The keys that the lease carries. Raises ``LeaseLost`` when there is none."""

    async def revoke(self, lease: int) -> None:
        """Ends the lease and deletes its keys; no error when it is gone already."""

    async def close(self) -> None:
        """Ends all watches and connections. No method may be called after it."""


class ContainerRuntime(Protocol):
    """A Docker engine. Every call has its own deadline; ``DockerUnreachable`` when nobody answers."""

    async def containers(self) -> tuple[ObservedContainer, ...]:
        """All containers of the engine, ended ones too."""

    def events(self) -> AbstractAsyncContextManager[AsyncIterator[ContainerEvent]]:
        """What happens to containers from now on. Raises ``DockerUnreachable`` when the engine goes."""

    async def has_image(self, image: str) -> bool:
        """True when the engine has the image under this reference."""

    async def pull(self, image: str) -> None:
        """Pulls the image with the machine's own Docker credentials."""

    async def images(self, names: Collection[str]) -> tuple[ObservedImage, ...]:
        """The images that have one of the names (without tags, registry spelt out)."""

    async def remove_image(self, reference: str) -> None:
        """Removes the reference, and the image with its last one. Raises DockerError while one uses it."""

    async def log_tail(self, container_id: str, *, lines: int, size: int) -> str:
        """The last lines of what the container wrote, ``size`` characters at most."""

    async def create(self, spec: ContainerSpec) -> str:
        """Creates the container without starting it; its id."""

    async def start(self, container_id: str) -> None:
        """Starts a created container."""

    async def stop(self, container_id: str, *, grace: float) -> None:
        """Asks it to end, kills it after ``grace`` seconds; no error when it has ended or is gone."""

    async def rename(self, container_id: str, name: str) -> None:
        """Gives the container, which may run, another name. Raises DockerError when it is taken."""

    async def remove(self, container_id: str) -> None:
        """Removes an ended or created container with its anonymous volumes; no error when it is gone."""

    async def close(self) -> None:
        """Ends all connections to the engine."""


class ContainerChecks(Protocol):
    """What checks ask of a Docker engine, beside the runtime: a check that waits holds up no action.

    The caller bounds the time. Raises ``DockerUnreachable`` when nobody answers, ``DockerError`` when
    the engine says no.
    """

    async def health(self, container_id: str) -> ContainerHealth:
        """The outcome of the image's own HEALTHCHECK."""

    async def execute(
        self,
        container_id: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        take: Callable[[bytes], None],
    ) -> int:
        """Runs a command inside the container, beside what it runs; its exit code.

        ``take`` gets b"" when the command has started, then what it prints; what ``take`` raises is
        raised here. Docker goes on with a command that nobody waits for: ending it is the caller's
        business, and a second one is refused while the same command still runs.
        """

    async def close(self) -> None:
        """Ends all connections to the engine."""


class ProxyProcesses(Protocol):
    """HAProxy's processes that go on with their old connections after a reload.

    They take no commands, and may still give a connection any server of *their* configuration.
    Every call ends within some seconds, and may raise ``HAProxyError``.
    """

    async def leaving(self) -> tuple[LeavingWorker, ...]:
        """Those that leave now, the longest first; none where no HAProxy runs."""

    async def unquiet(self, servers: Mapping[str, str], *, present: str) -> Mapping[str, str]:
        """The servers that are not quiet in every process that leaves, each with why.

        What quiet is: ``planning.leaving_workers``.
        ``servers`` maps ``backend/server`` to ``host:port``. ``present`` is the configuration on disk:
        what a process was loaded with of which nothing better is known. Raises ``HAProxyError`` when
        it cannot be told, also where no HAProxy runs: then nothing is quiet.
        """


class Proxy(Protocol):
    """HAProxy on this machine: its configuration on disk, and the process that runs it.

    Certificates and files lie in directories named after their contents: preparing new ones never
    touches those that run. Every method may raise ``HAProxyError``.
    """

    @property
    def socket(self) -> str:
        """The runtime socket's path, as templates are told."""

    @property
    def workers(self) -> ProxyProcesses:
        """Those that leave after reloads."""

    def directories(
        self, configuration: ProxyConfiguration, *, current: str | None = None, loaded_anew: bool = True
    ) -> Directories:
        """Where the configuration's certificates and files lie, or will.

        Certificates stay where the ``current`` text has them while only their contents change, unless
        they are to be ``loaded_anew``.
        """

    async def current(self) -> str | None:
        """The configuration on disk; None where there is none."""

    async def check(self, text: str, configuration: ProxyConfiguration) -> CheckResult:
        """Lets HAProxy read the text, with its certificates and files in place. Nothing that runs changes."""

    async def servers(self) -> Running:
        """The servers as they run, by the runtime socket."""

    async def execute(self, commands: Sequence[Command]) -> list[str]:
        """Carries out commands on the runtime socket, all of them; what HAProxy refused, and why."""

    async def sessions(self, places: AbstractSet[Place]) -> Mapping[Place, int]:
        """How many sessions each of the servers has, those in its queue too."""

    async def statistics(
        self, addresses: AbstractSet[str], places: AbstractSet[Place]
    ) -> tuple[StatRow, ...]:
        """What the serving worker says of its servers at these ``host:port``, and at these places."""

    async def exchange(self, text: str, configuration: ProxyConfiguration) -> str | None:
        """Exchanges certificates at runtime and on disk where they differ; why HAProxy does not take them."""

    async def replace(self, text: str) -> None:
        """Writes a text that HAProxy runs already. The one before is not kept: nothing was wrong with it."""

    async def apply(self, text: str, configuration: ProxyConfiguration) -> None:
        """Writes the text and has HAProxy load it. When it did not, the old file is put back.

        Raises HAProxyRejected when HAProxy does not take it, other errors when it cannot be told to.
        """

    async def ensure(self, *, start: bool) -> Life:
        """Sees to it that HAProxy runs what is on disk, if it is ours to run, and says whether it does.

        It is started only with ``start``, and not before its pause after a failure is over. One
        that others run counts as running. Without a file on disk there is nothing to start.
        """

    def subscribe(self, notify: Callable[[str], None]) -> None:
        """Calls ``notify`` with a reason when HAProxy ended or may be started again."""

    async def close(self) -> None:
        """Stops watching HAProxy, which goes on."""


class Prober(Protocol):
    """Carries out one kind of check once."""

    async def probe(self, check: Check, run: Run) -> ProbeResult:
        """Asks ``run`` once, within the check's own time-outs; a failure is an answer, no exception.

        The run's host and port are filled into ``check`` already.
        """

    async def close(self) -> None:
        """Ends all connections."""


class StateFiles(Protocol):
    """The daemon's own small files: each is replaced as a whole, or stays as it was."""

    def load(self, name: str) -> bytes | None:
        """The content; None when there is no such file or it cannot be read."""

    def save(self, name: str, content: bytes) -> None:
        """Replaces the content, durably. Raises ``OrbitError`` when the disk does not take it."""
