"""A configuration text as its server lines and everything else.

A server line is set apart when HAProxy could be told of it at runtime and nothing else in the text
depends on it. The rest is compared as a whole: where it differs, only a reload helps. So whatever
this module does not understand is rest, and costs a reload at worst:

- servers whose name begins with ``nocheck-``, and those of a ``server-template``, which are their
  author's;
- servers that other lines refer to by name (``use-server``, ``track``, ``srv_is_up(…)``): without
  them the text would not be valid;
- lines with environment variables, lines inside ``.if``, names that stand twice in a section.

Words, quotes and comments as in the configuration manual, 2.2; inheritance of ``defaults`` as in
chapter 4; ``default-server`` and the keywords of servers as in 5.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from msgspec import Struct, structs

from orbitcontrol.codec.haproxy_runtime import Admin, RunningServer

UNTOUCHED = "nocheck-"
"""A server whose name begins so is never changed at runtime."""

_PROXIES = frozenset({"frontend", "backend", "listen", "defaults"})
_SECTIONS = _PROXIES | {
    "acme",
    "cache",
    "crt-store",
    "fcgi-app",
    "global",
    "http-errors",
    "log-forward",
    "log-profile",
    "mailers",
    "peers",
    "program",
    "resolvers",
    "ring",
    "traces",
    "userlist",
}
_FLAGS = frozenset(
    {"agent-check", "backup", "check", "check-send-proxy", "check-ssl", "send-proxy", "send-proxy-v2", "ssl"}
)
"""Options of a server without a value that ``no-…`` takes back."""

_STICKY = frozenset({"cookie", "persist", "stick", "appsession"})
_HASHES = ("hash", "hdr", "rdp-cookie", "source", "uri", "url_param")
_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<comment>\#.*)"""
    r"""|(?P<word>(?:\\.|"(?:\\.|[^"\\])*"|'[^']*'|[^\s\\"'\#])+)|(?P<odd>.)"""
)
_ESCAPE = re.compile(r"""\\(.)|"((?:\\.|[^"\\])*)"|'([^']*)'""")
_PIECES = re.compile(r"""[\s,()/{}"']+""")


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


def server(name: str, address: str, options: tuple[str, ...]) -> Server:
    """The server of a line with these words."""
    weight = _number(options, "weight", 1)
    place = None if "agent-check" in options else literal_address(address)
    as_said = None
    if place is not None:
        admin: Admin = "maint" if "disabled" in options else "ready"
        as_said = RunningServer(host=place[0], port=place[1], admin=admin, weight=weight)
    return Server(name, address, options, weight, as_said)


def literal_address(address: str) -> tuple[str, int] | None:
    """Host and port (0: none) of an address that names an IP; None for any other."""
    host, colon, port = address.rpartition(":")
    if not colon:
        host, port = address, "0"
    try:
        ip = ipaddress.ip_address(host.rpartition("@")[2].strip("[]"))
    except ValueError:
        return None
    return (str(ip), int(port)) if port.isdecimal() else None


def _number(options: tuple[str, ...], keyword: str, default: int) -> int:
    """The number behind the keyword; of several the last counts."""
    for index in range(len(options) - 2, -1, -1):
        if options[index] == keyword and options[index + 1].isdecimal():
            return int(options[index + 1])
    return default


class Section(Struct, frozen=True, kw_only=True):
    """What a ``backend`` or ``listen`` section says of its servers.

    ``sticky``: sessions are bound to servers by cookies or tables. ``hashed``: requests are spread by
    consistent hashing over the servers' numbers. ``untouched`` and ``prefixes`` name servers that are
    not ours: by their names, and by how the names begin; ``others`` are their lines that can be read.
    """

    servers: Mapping[str, Server]
    others: tuple[Server, ...] = ()
    sticky: bool = False
    hashed: bool = False
    untouched: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    def is_ours(self, server: str) -> bool:
        """True for a server that may be changed at runtime."""
        return not (
            server in self.untouched
            or server.startswith(UNTOUCHED)
            or any(_numbered(prefix, server) for prefix in self.prefixes)
        )


class Layout(Struct, frozen=True, kw_only=True):
    """A configuration. ``rest`` has its lines without the servers, normalised.

    ``numbers`` says on which line of the text (from 0) each server of a hashed section stands.
    """

    rest: tuple[str, ...]
    sections: Mapping[str, Section]
    numbers: Mapping[str, Mapping[str, int]]


class _Traits(Struct, frozen=True):
    """What a section inherits, and passes on when it is a ``defaults``."""

    default: tuple[str, ...] = ()
    algorithm: str = ""
    consistent: bool = False
    sticky: bool = False


class _Open:
    """A section while it is read. ``twice`` has the lines of names that stood before."""

    def __init__(self, traits: _Traits) -> None:
        self.traits = traits
        self.lines: dict[str, tuple[int, Server]] = {}
        self.twice: list[tuple[int, Server]] = []
        self.untouched: set[str] = set()
        self.prefixes: list[str] = []


def words(line: str) -> tuple[str, ...]:
    """The words of a line without its comment, quotes and escapes resolved."""
    if not any(character in line for character in "#\\\"'"):
        return tuple(line.split())
    found = []
    for match in _TOKEN.finditer(line):
        if match.lastgroup == "comment":
            break
        if match.lastgroup != "space":
            found.append(_ESCAPE.sub(_resolved, match[0]))
    return tuple(found)


def _resolved(match: re.Match[str]) -> str:
    if match[2] is not None:
        return re.sub(r"\\(.)", r"\1", match[2])
    return match[1] or match[3] or ""


def layout(text: str) -> Layout:
    """Takes a configuration apart."""
    reader = _Reader()
    lines = text.split("\n")
    for number, line in enumerate(lines):
        reader.read(number, line)
    return reader.layout(lines)


class _Reader:
    """Reads a configuration line by line."""

    def __init__(self) -> None:
        self._rest: dict[int, str] = {}
        self._defaults: dict[str, _Open] = {}
        self._latest = _Open(_Traits())
        self._sections: dict[str, _Open] = {}
        self._now: _Open | None = None
        self._conditions = 0

    def read(self, number: int, line: str) -> None:
        now = self._now
        if now is not None and not self._conditions and line.lstrip().startswith("server"):
            found_server = _server(line, now.traits.default)
            if found_server is not None:
                if found_server.name in now.lines:
                    now.twice.append((number, found_server))
                else:
                    now.lines[found_server.name] = number, found_server
                return
        found = words(line)
        if not found:
            return
        keyword = found[0]
        if keyword in _SECTIONS:
            self._open(found)
        elif keyword.startswith("."):
            self._conditions += {".if": 1, ".endif": -1}.get(keyword, 0)
        elif now is not None:
            self._notice(now, found)
        self._rest[number] = " ".join(found)

    def layout(self, lines: Sequence[str]) -> Layout:
        """What was read from these lines."""
        referred = _references(self._rest.values(), self._sections.values())
        sections = {name: self._closed(section, referred, lines) for name, section in self._sections.items()}
        return Layout(
            rest=tuple(line for _, line in sorted(self._rest.items())),
            sections=sections,
            numbers={
                name: {server: number for server, (number, _) in section.lines.items()}
                for name, section in self._sections.items()
                if sections[name].hashed
            },
        )

    def _closed(self, section: _Open, referred: frozenset[str], lines: Sequence[str]) -> Section:
        """The section, after what is not ours of it went to the rest."""
        twice = {server.name for _, server in section.twice}
        names = [
            name for name in section.lines if name in referred or name in twice or name.startswith(UNTOUCHED)
        ]
        others = [section.lines.pop(name) for name in names] + section.twice
        for number, _ in others:
            self._rest[number] = " ".join(words(lines[number]))
        traits = section.traits
        return Section(
            servers={name: parsed for name, (_, parsed) in section.lines.items()},
            others=tuple(parsed for _, parsed in others),
            sticky=traits.sticky or traits.algorithm.startswith("rdp-cookie"),
            hashed=traits.consistent and traits.algorithm.startswith(_HASHES),
            untouched=frozenset(section.untouched | set(names)),
            prefixes=tuple(section.prefixes),
        )

    def _open(self, found: tuple[str, ...]) -> None:
        keyword, name = found[0], found[1] if len(found) > 1 else ""
        if keyword not in _PROXIES:
            self._now = None
            return
        parent = self._latest
        if "from" in found[1:-1]:
            parent = self._defaults.get(found[found.index("from") + 1], parent)
        elif keyword == "defaults":
            parent = _Open(_Traits())
        self._now = _Open(parent.traits)
        if keyword == "defaults":
            self._latest = self._now
            self._defaults[name] = self._now
        elif keyword != "frontend":
            self._sections[name] = self._now

    @staticmethod
    def _notice(section: _Open, found: tuple[str, ...]) -> None:
        traits = section.traits
        match found:
            case ["default-server", *options]:
                section.traits = structs.replace(traits, default=_merged(traits.default, tuple(options)))
            case ["balance", algorithm, *_]:
                section.traits = structs.replace(traits, algorithm=algorithm)
            case ["hash-type", kind, *_]:
                section.traits = structs.replace(traits, consistent=kind == "consistent")
            case ["server-template", prefix, *_]:
                section.prefixes.append(prefix)
            case ["server", name, *_]:
                section.untouched.add(name)
            case [keyword, *_] if keyword in _STICKY:
                section.traits = structs.replace(traits, sticky=True)
            case _:
                pass


@lru_cache(maxsize=16384)
def _server(line: str, default: tuple[str, ...]) -> Server | None:
    """The server of a line; None where it has none, or where HAProxy may read something else there."""
    found = words(line)
    if len(found) < 3 or found[0] != "server" or ('"' in line and "$" in line):
        return None
    return server(found[1], found[2], _merged(default, found[3:]))


def _merged(default: tuple[str, ...], own: tuple[str, ...]) -> tuple[str, ...]:
    """The options in the order in which HAProxy reads them, without flags that were taken back."""
    merged: list[str] = []
    for option in (*default, *own):
        flag = option.removeprefix("no-")
        if flag != option and flag in _FLAGS:
            merged = [each for each in merged if each != flag]
        else:
            merged.append(option)
    return tuple(merged)


def _references(rest: Iterable[str], sections: Iterable[_Open]) -> frozenset[str]:
    """The names of servers that something in the text may refer to."""
    found: set[str] = set()
    for line in rest:
        if "(" in line or "/" in line or "use-server" in line:
            found.update(_PIECES.split(line))
    for section in sections:
        for _, server in section.lines.values():
            if "track" in server.options:
                found.update(option.rpartition("/")[2] for option in server.options)
    return frozenset(found)


def _numbered(prefix: str, name: str) -> bool:
    return name.startswith(prefix) and name[len(prefix) :].isdecimal()
