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

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

from msgspec import Struct, structs

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
    """A server line. ``options`` are those of the ``default-server`` in its scope, then its own."""

    name: str
    address: str
    options: tuple[str, ...]

    @property
    def checked(self) -> bool:
        """True when HAProxy looks after it by itself."""
        return "check" in self.options or "track" in self.options

    @property
    def disabled(self) -> bool:
        """True when it begins in maintenance."""
        return "disabled" in self.options

    @property
    def weight(self) -> int:
        """Its weight; 1 where it names none, or not as a number."""
        value = self._value("weight")
        return int(value) if value.isdecimal() else 1

    @property
    def id(self) -> int:
        """The number that its line gives it; 0 without one."""
        value = self._value("id")
        return int(value) if value.isdecimal() else 0

    def without_weight(self) -> Server:
        """The same but for its weight, the one option that can be changed at runtime."""
        kept = list(self.options)
        while "weight" in kept[:-1]:
            index = kept.index("weight")
            del kept[index : index + 2]
        return structs.replace(self, options=tuple(kept))

    def _value(self, keyword: str) -> str:
        """The word behind the keyword; of several the last counts."""
        for index in range(len(self.options) - 2, -1, -1):
            if self.options[index] == keyword:
                return self.options[index + 1]
        return ""


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

    ``numbers`` says on which line of the text (from 0) each server of a section stands.
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
    """A section while it is read."""

    def __init__(self, traits: _Traits) -> None:
        self.traits = traits
        self.lines: list[tuple[int, str, Server]] = []
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
    for number, line in enumerate(text.split("\n")):
        reader.read(number, line)
    return reader.layout()


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
            server = _server(line, now.traits.default)
            if server is not None:
                now.lines.append((number, line, server))
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
        self._rest[number] = line

    def layout(self) -> Layout:
        """What was read."""
        referred = _references(self._rest.values(), self._sections.values())
        sections, numbers = {}, {}
        for name, section in self._sections.items():
            lines = dict[str, tuple[int, Server]]()
            others: list[Server] = []
            times = Counter(server.name for _, _, server in section.lines)
            for number, line, server in section.lines:
                if server.name in referred or server.name.startswith(UNTOUCHED) or times[server.name] > 1:
                    section.untouched.add(server.name)
                    others.append(server)
                    self._rest[number] = line
                else:
                    lines[server.name] = number, server
            traits = section.traits
            sections[name] = Section(
                servers={server: parsed for server, (_, parsed) in lines.items()},
                others=tuple(others),
                sticky=traits.sticky or traits.algorithm.startswith("rdp-cookie"),
                hashed=traits.consistent and traits.algorithm.startswith(_HASHES),
                untouched=frozenset(section.untouched),
                prefixes=tuple(section.prefixes),
            )
            numbers[name] = {server: number for server, (number, _) in lines.items()}
        rest = tuple(" ".join(words(line)) for _, line in sorted(self._rest.items()))
        return Layout(rest=rest, sections=sections, numbers=numbers)

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
    return Server(found[1], found[2], _merged(default, found[3:]))


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
        for _, _, server in section.lines:
            if "track" in server.options[:-1]:
                found.add(server.options[server.options.index("track") + 1].rpartition("/")[2])
    return frozenset(found)


def _numbered(prefix: str, name: str) -> bool:
    return name.startswith(prefix) and name[len(prefix) :].isdecimal()
