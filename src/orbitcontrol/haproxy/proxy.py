"""The adapter of ``ports.Proxy``: HAProxy's files and its process as one thing.

The order of an application is: certificates and files under names of their own, the check, a
backup of the old configuration, the new one by rename, the reload, its outcome. Only then are
directories removed that nothing names any more. A crash between any two of these steps leaves
files with which HAProxy can be started.
"""

from __future__ import annotations

import asyncio
import glob
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from orbitcontrol.codec.haproxy import CheckResult
from orbitcontrol.codec.haproxy_runtime import Command, Running
from orbitcontrol.codec.haproxy_stat import StatRow
from orbitcontrol.errors import HAProxyError
from orbitcontrol.haproxy import files
from orbitcontrol.haproxy.certificates import exchange
from orbitcontrol.haproxy.check import check_file
from orbitcontrol.haproxy.external import ExternalProcess
from orbitcontrol.haproxy.process import ManagedProcess
from orbitcontrol.haproxy.processes import LeavingProcesses
from orbitcontrol.haproxy.runtime import RuntimeSocket
from orbitcontrol.haproxy.workers import LeavingWorkers
from orbitcontrol.model.configuration import ProxyConfiguration
from orbitcontrol.planning.proxy import Directories, Life
from orbitcontrol.planning.servers import Place

_T = TypeVar("_T")


class HAProxySettings(Struct, frozen=True, kw_only=True):
    """Where HAProxy is and how it is run; the ``--haproxy-…`` options of ``orbitctl daemon``.

    ``socket`` is a glob, whose first match templates are told as the runtime socket; "" means
    ``haproxy.sock`` beside the configuration.
    """

    config_dir: Path
    config_name: str = "haproxy.cfg"
    binary: str = "haproxy"
    managed: bool = False
    socket: str = ""
    reload_command: str | None = None
    master_socket: Path | None = None


class HAProxy:
    """HAProxy on this machine. See ``ports.Proxy`` for what the methods promise."""

    def __init__(self, settings: HAProxySettings) -> None:
        directory = settings.config_dir.absolute()
        self._config = directory / settings.config_name
        self._certs = directory / "certs"
        self._files = directory / "haproxy_files"
        self._binary = settings.binary
        self._pattern = settings.socket
        self._read: tuple[tuple[int, ...] | None, str | None] = None, None
        """Which version of the file was read or written last, and its text."""
        self._process: ManagedProcess | ExternalProcess = (
            ManagedProcess(self._config, binary=settings.binary)
            if settings.managed
            else ExternalProcess(
                reload_command=settings.reload_command,
                master_socket=settings.master_socket,
                socket=lambda: self.socket,
            )
        )

    @property
    def socket(self) -> str:
        """A glob is looked at each time: it may match once HAProxy runs. HAProxyError while it does not."""
        if not glob.has_magic(self._pattern):
            return self._pattern or str(self._config.with_name("haproxy.sock"))
        found = glob.glob(self._pattern)  # noqa: PTH207 -- Path.glob takes no absolute pattern
        if not found:
            raise HAProxyError(
                f"--haproxy-socket: nothing matches {self._pattern!r}; start HAProxy, or name the path of "
                "its runtime socket"
            )
        return min(found)

    @property
    def _runtime(self) -> RuntimeSocket:
        return RuntimeSocket(self.socket)

    @property
    def workers(self) -> LeavingWorkers | LeavingProcesses:
        return self._process.workers

    def directories(
        self, configuration: ProxyConfiguration, *, current: str | None = None, loaded_anew: bool = True
    ) -> Directories:
        certs = files.place_of(self._certs, configuration.certs, text=current, loaded_anew=loaded_anew)
        return Directories(
            certs=str(certs), files=str(self._files / files.contents_name(configuration.haproxy_files))
        )

    async def statistics(
        self, addresses: AbstractSet[str], places: AbstractSet[Place]
    ) -> tuple[StatRow, ...]:
        return await self._runtime.statistics(addresses, places)

    async def exchange(self, text: str, configuration: ProxyConfiguration) -> str | None:
        directory = files.named_in(self._certs, text)
        if directory is None:
            return None
        changed = await _off_loop(files.differing, directory, configuration.certs)
        if not changed:
            return None
        refused = await exchange(self.socket, {directory / name: pem for name, pem in changed.items()})
        if refused is None:
            await _off_loop(files.write_files, directory, changed)
        return refused

    async def current(self) -> str | None:
        version = files.version(self._config)
        if version is None or version != self._read[0]:
            self._read = version, await _off_loop(files.read_text, self._config)
        return self._read[1]

    async def check(self, text: str, configuration: ProxyConfiguration) -> CheckResult:
        candidate = self._config.with_name(f".{self._config.name}.check")
        await _off_loop(self._prepare, candidate, text, configuration)
        try:
            return await check_file(self._binary, candidate)
        finally:
            candidate.unlink(missing_ok=True)

    async def servers(self) -> Running:
        return await self._runtime.servers()

    async def execute(self, commands: Sequence[Command]) -> list[str]:
        return await self._runtime.execute(commands) if commands else []

    async def sessions(self, places: AbstractSet[Place]) -> Mapping[Place, int]:
        return await self._runtime.sessions(places)

    async def replace(self, text: str) -> None:
        self._read = await _off_loop(files.write_config, self._config, text), text

    async def apply(self, text: str, configuration: ProxyConfiguration) -> None:
        before = await self.current()
        await self.workers.note(before)
        await _off_loop(files.keep_backup, self._config)
        await _off_loop(self._prepare, self._config, text, configuration)
        try:
            await self._process.load()
        except HAProxyError:
            await _off_loop(self._put_back, before)
            raise
        await _off_loop(self._prune)

    async def ensure(self, *, start: bool) -> Life:
        return await self._process.ensure(start=start)

    def subscribe(self, notify: Callable[[str], None]) -> None:
        self._process.subscribe(notify)

    async def close(self) -> None:
        await self._process.close()

    def _prepare(self, path: Path, text: str, configuration: ProxyConfiguration) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        for parent, contents in (
            (self._certs, configuration.certs),
            (self._files, configuration.haproxy_files),
        ):
            files.write_files(
                files.named_in(parent, text) or parent / files.contents_name(contents), contents
            )
        files.write_config(path, text)

    def _put_back(self, before: str | None) -> None:
        if before is None:
            self._config.unlink(missing_ok=True)
        else:
            files.write_config(self._config, before)

    def _prune(self) -> None:
        for parent in (self._certs, self._files):
            files.prune(parent, self._config)


async def _off_loop(call: Callable[..., _T], *arguments: object) -> _T:
    """Does blocking file work in a thread. What the file system refuses becomes an HAProxyError."""
    try:
        return await asyncio.to_thread(call, *arguments)
    except OSError as error:
        # a write to a full disk does not say where
        place = error.filename or next((each for each in arguments if isinstance(each, Path)), "HAProxy")
        raise HAProxyError(f"{place}: {error.strerror}; HAProxy's files cannot be written") from error
