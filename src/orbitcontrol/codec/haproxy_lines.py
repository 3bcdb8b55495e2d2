"""The server lines of HAProxy's configuration: what they say, as far as it is certain.

Keywords of servers and of ``default-server`` as in the configuration manual, chapter 5.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from msgspec import Struct

from orbitcontrol.codec.haproxy_runtime import Admin, RunningServer
from orbitcontrol.codec.haproxy_words import literal_words

_FLAGS = frozenset(
    {"agent-check", "backup", "check", "check-send-proxy", "check-ssl", "send-proxy", "send-proxy-v2", "ssl"}
)
"""Options of a server without a value that ``no-…`` takes back."""

_MOST_WORDS = 64
"""HAProxy refuses lines with more of them, and cuts off commands without a word."""

_PATHS = ("unix@", "abns@", "/")


class Server(Struct, frozen=True):
    """A server line. ``options`` are those of the ``default-server`` in its scope, then its own.

    ``as_said`` is how it runs when all is as its line says; None where the line leaves that open: its
    address is no IP, or HAProxy asks an agent for its weight and state.
    """

    name: str
    address: str
    options: tuple[str, ...]
    weight: int = 1
    as_said: RunningServer | None = None

    @property
    def checked(self) -> bool:
        """True when HAProxy looks after it by itself."""
        return "check" in self.options or "track" in self.options

    @property
    def governed(self) -> bool:
        """True when an agent says its weight and its state."""
        return "agent-check" in self.options

    @property
    def disabled(self) -> bool:
        """True when it begins in maintenance."""
        return "disabled" in self.options

    @property
    def id(self) -> int:
        """The number that its line gives it; 0 without one."""
        return _number(self.options, "id", 0)

    def without_weight(self) -> tuple[str, ...]:
        """All but its weight, which can be changed at runtime."""
        kept = [self.name, self.address, *self.options]
        while "weight" in kept[2:-1]:
            index = kept.index("weight", 2)
            del kept[index : index + 2]
        return tuple(kept)

    def only_in_a_file(self) -> str | None:
        """Why HAProxy must read it from its file; None when the runtime socket can add it, too."""
        if not _stands_for_itself(self.address):
            return f"{self.address} is looked up only when HAProxy starts"
        if len(self.options) + 4 > _MOST_WORDS:
            return "it has too many options for one command"
        return None


def server(name: str, address: str, options: tuple[str, ...]) -> Server:
    """The server of a line with these words."""
    weight = _number(options, "weight", 1)
    place = None if "agent-check" in options else literal_address(address)
    as_said = None
    if place is not None:
        admin: Admin = "maint" if "disabled" in options else "ready"
        as_said = RunningServer(host=place[0], port=place[1], admin=admin, weight=weight)
    return Server(name, address, options, weight, as_said)


@lru_cache(maxsize=1 << 15)
def server_of_line(line: str, default: tuple[str, ...]) -> Server | None:
    """The server of a line; None where it has none, or where HAProxy may read something else there."""
    found = literal_words(line)
    if found is None or not 3 <= len(found) <= _MOST_WORDS or found[0] != "server":
        return None
    name, address, options = found[1], found[2], merged(default, found[3:])
    if "$" in address or not (_are_numbers(options, "weight") and _are_numbers(options, "id")):
        return None
    return server(name, address, options)


def merged(default: tuple[str, ...], own: tuple[str, ...]) -> tuple[str, ...]:
    """The options in the order in which HAProxy reads them, without flags that were taken back."""
    found: list[str] = []
    for option in (*default, *own):
        flag = option.removeprefix("no-")
        if option == "enabled":
            found = [each for each in found if each != "disabled"]
        elif flag != option and flag in _FLAGS:
            found = [each for each in found if each != flag]
        else:
            found.append(option)
    return tuple(found)


def literal_address(address: str) -> tuple[str, int] | None:
    """Host and port (0: none) of an address that names an IP; None for any other."""
    host, port = _host_and_port(address)
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (str(ip), int(port)) if port.isascii() and port.isdecimal() else None


def _stands_for_itself(address: str) -> bool:
    """True for an IP, for any (``:80``, ``*:80``), and for a path: nothing has to be looked up."""
    host, _ = _host_and_port(address)
    if address.startswith(_PATHS) or host in ("", "*"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _host_and_port(address: str) -> tuple[str, str]:
    """``10.0.0.1:80``, ``ipv6@[::1]:80``, ``::1:80`` (the last number is the port), ``[::1]``."""
    place = address.rpartition("@")[2]
    host, colon, port = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, port = place, "0"
    return host.strip("[]"), port


def _number(options: tuple[str, ...], keyword: str, default: int) -> int:
    """The number behind the keyword; of several the last counts."""
    for index in range(len(options) - 2, -1, -1):
        if options[index] == keyword and options[index + 1].isdecimal():
            return int(options[index + 1])
    return default


def _are_numbers(options: tuple[str, ...], keyword: str) -> bool:
    """False where HAProxy makes a number of something else, as of ``5x``."""
    values = (options[index + 1 : index + 2] for index, option in enumerate(options) if option == keyword)
    return all(value and value[0].isascii() and value[0].isdecimal() for value in values)
