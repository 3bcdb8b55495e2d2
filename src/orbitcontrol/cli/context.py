"""What every command gets: the global options, and the way to the store.

This module is loaded by every command, ``--help`` too, so it imports nothing that takes time.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from orbitcontrol.errors import OrbitError

if TYPE_CHECKING:
    from orbitcontrol.codec.keys import Keys
    from orbitcontrol.ports import Store

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandContext:
    """The global options of one command line, resolved."""

    store: str
    base_path: str
    etcd_user: str | None
    etcd_password: str | None
    etcd_cacert: str | None
    etcd_cert: str | None
    etcd_key: str | None
    state_dir: Path
    debug: bool
    log_format: Literal["text", "json"]
    yes: bool

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> CommandContext:
        """From the global options' values by name."""
        user, _, password = (options["etcd_user"] or "").partition(":")
        state_dir = Path(options["state_dir"])
        return cls(
            store=options["store"] or options["etcd_endpoint"] or f"sqlite://{state_dir.absolute()}/store.db",
            base_path="/" + options["etcd_base_path"].strip("/"),
            etcd_user=user or None,
            etcd_password=password or os.environ.get("ORBITCTL_ETCD_PASSWORD"),
            etcd_cacert=options["etcd_cacert"],
            etcd_cert=options["etcd_cert"],
            etcd_key=options["etcd_key"],
            state_dir=state_dir,
            debug=options["debug"],
            log_format=options["log_format"],
            yes=options["yes"],
        )

    @property
    def keys(self) -> Keys:
        """The store's layout below ``--etcd-base-path``."""
        from orbitcontrol.codec.keys import Keys  # noqa: PLC0415 -- see above

        return Keys(self.base_path)

    @property
    def user(self) -> str:
        """Who runs the command, for the record."""
        import getpass  # noqa: PLC0415 -- see above

        try:
            return os.environ.get("SUDO_USER") or getpass.getuser()
        except (KeyError, OSError):
            return str(os.getuid())

    @property
    def interactive(self) -> bool:
        """True when a person can be asked."""
        return sys.stdin.isatty() and sys.stderr.isatty()

    def open_store(self) -> Store:
        """The store of ``--store``. Nothing is connected yet."""
        from orbitcontrol.store.open import open_store  # noqa: PLC0415 -- see above

        return open_store(
            self.store,
            user=self.etcd_user,
            password=self.etcd_password if self.etcd_user else None,
            ca=self.etcd_cacert,
            cert=self.etcd_cert,
            key=self.etcd_key,
        )

    def with_store(self, work: Callable[[Store], Awaitable[T]], *, may_create: bool = False) -> T:
        """Runs ``work`` with the store and closes it afterwards.

        A SQLite file that is not there is refused unless ``may_create``: it is most often misspelt,
        and an empty store made in its place would look like an empty cluster.
        """
        import asyncio  # noqa: PLC0415 -- see above

        if not may_create:
            self._require_store()

        async def session() -> T:
            store = self.open_store()
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(session())

    def _require_store(self) -> None:
        from orbitcontrol.store.settings import SqliteAddress, parse_address  # noqa: PLC0415 -- see above

        address = parse_address(self.store)
        if not isinstance(address, SqliteAddress):
            return
        try:
            Path(address.path).stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise OrbitError(
                f"{self.store}: there is no such store; `orbitctl import` makes one, "
                "--store or ORBITCTL_STORE names another"
            ) from error
        except OSError:
            pass  # the store itself says best why it cannot be read


def utc_now() -> str:
    """The time as RFC 3339 in UTC, whole seconds."""
    from orbitcontrol.codec.times import in_utc  # noqa: PLC0415 -- see above

    return in_utc(time.time())
