"""HAProxy's runtime interface, as values: its commands, what it says of them, and its servers.

Formats as HAProxy 2.6 and 2.8 write them (management guide, 9.3: ``add server``, ``del server``,
``set server``, ``show servers state``; the bits of the states in ``include/haproxy/server-t.h``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

from msgspec import Struct

Admin = Literal["ready", "drain", "maint"]

_COLUMNS = (
    "be_name",
    "srv_name",
    "srv_addr",
    "srv_port",
    "srv_op_state",
    "srv_admin_state",
    "srv_uweight",
    "srv_check_state",
)
_MAINTENANCE, _DRAIN = 0x01, 0x08
"""What somebody asked for; other bits are inherited by ``track``, or follow from a name's resolution."""

_STOPPED = 0
_CONFIGURED, _ENABLED = 0x02, 0x04
_SPECIAL = re.compile(r"([\\ ;\t<\"'#])")


class RunningServer(Struct, frozen=True, kw_only=True):
    """A server as HAProxy has it now.

    ``host`` is "" where HAProxy knows no address. ``down``: it gets nothing although its state is
    ready. ``unchecked``: its line has a check, which is switched off.
    """

    host: str
    port: int
    admin: Admin
    weight: int
    down: bool = False
    unchecked: bool = False


Running = Mapping[str, Mapping[str, RunningServer]]
"""Section → server. A section without servers is missing."""


def parse_servers(reply: str) -> dict[str, dict[str, RunningServer]] | None:
    """The answer to ``show servers state``; None where it is something else, or cut off."""
    _, _, table = reply.partition("\n# ")
    head, _, body = table.partition("\n")
    names, words = head.split(), body.split()
    if not set(_COLUMNS) <= set(names) or len(words) % len(names):
        return None
    columns = (words[names.index(column) :: len(names)] for column in _COLUMNS)
    found: dict[str, dict[str, RunningServer]] = {}
    for section, server, *state in zip(*columns, strict=True):
        found.setdefault(section, {})[server] = _running(*state)
    return found


@lru_cache(maxsize=1 << 14)
def _running(*words: str) -> RunningServer:
    """A server from its words in ``_COLUMNS``, but for its names."""
    host = words[0]
    port, operational, states, weight, checks = map(int, words[1:])
    admin: Admin = "maint" if states & _MAINTENANCE else "drain" if states & _DRAIN else "ready"
    return RunningServer(
        host="" if host == "-" else host,
        port=port,
        admin=admin,
        weight=weight,
        down=operational == _STOPPED and admin == "ready",
        unchecked=bool(checks & _CONFIGURED) and not checks & _ENABLED,
    )


class Command(Struct, frozen=True, kw_only=True):
    """Something to be done to one server."""

    section: str
    server: str

    @property
    def where(self) -> str:
        """The server as HAProxy's commands and messages name it."""
        return f"{self.section}/{self.server}"

    def text(self) -> str:
        """The command's line."""
        raise NotImplementedError

    def refusal(self, reply: str) -> str | None:
        """Why HAProxy did not do it; None when it did."""
        return reply.strip() or None


class Add(Command, frozen=True, kw_only=True):
    """A new server. It begins in maintenance, its checks switched off."""

    address: str
    options: tuple[str, ...] = ()

    def text(self) -> str:
        return " ".join(map(_escaped, ("add", "server", self.where, self.address, *self.options)))

    def refusal(self, reply: str) -> str | None:
        return None if "New server registered" in reply else reply.strip() or "no answer"


class EnableCheck(Command, frozen=True, kw_only=True):
    """Its checks begin, or begin again. ``agent`` is its agent check."""

    agent: bool = False

    def text(self) -> str:
        return f"enable {'agent' if self.agent else 'health'} {_escaped(self.where)}"


class SetState(Command, frozen=True, kw_only=True):
    """It gets connections, only those of its sessions, or none."""

    state: Admin

    def text(self) -> str:
        return f"set server {_escaped(self.where)} state {self.state}"


class SetWeight(Command, frozen=True, kw_only=True):
    """Its share among the others."""

    weight: int

    def text(self) -> str:
        return f"set server {_escaped(self.where)} weight {self.weight}"


class SetUp(Command, frozen=True, kw_only=True):
    """It counts as up, after somebody said that it is down."""

    def text(self) -> str:
        return f"set server {_escaped(self.where)} health up"


class SetAddress(Command, frozen=True, kw_only=True):
    """Where it is."""

    host: str
    port: int

    def text(self) -> str:
        return f"set server {_escaped(self.where)} addr {self.host} port {self.port}"

    def refusal(self, reply: str) -> str | None:
        return None if "changed" in reply or "no need to change" in reply else reply.strip() or "no answer"


class Remove(Command, frozen=True, kw_only=True):
    """It is forgotten: in maintenance, and with no connection left."""

    def text(self) -> str:
        return f"del server {_escaped(self.where)}"

    def refusal(self, reply: str) -> str | None:
        return None if "Server deleted" in reply else reply.strip() or "no answer"


def _escaped(word: str) -> str:
    return _SPECIAL.sub(r"\\\1", word)
