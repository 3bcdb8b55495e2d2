"""A configuration text as its server lines and everything else.

A server line is set apart when HAProxy could be told of it at runtime and nothing else in the text
depends on it. The rest is compared as a whole: where it differs, only a reload helps. So whatever
this module does not understand is rest, and costs a reload at worst:

- servers whose name begins with ``nocheck-``, and those of a ``server-template``, which are their
  author's;
- servers that other lines refer to by name (``use-server``, ``track``, ``srv_is_up(…)``): without
  them the text would not be valid;
- lines that depend on the environment, lines inside ``.if``, names that stand twice in a section;
- all servers of a section of which something decisive is like that: its name, its ``default-server``,
  the name of a server; or that is disabled.

Inheritance of ``defaults`` as in the configuration manual, chapter 4. The file ends with a line feed,
or HAProxy refuses it: so the last line of a text without one is rest as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, structs

from orbitcontrol.codec.haproxy_lines import Server, merged, server_of_line
from orbitcontrol.codec.haproxy_words import literal_words, normal, words

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
_STICKY = frozenset({"cookie", "persist", "stick", "appsession"})
_HASHES = ("hash", "hdr", "rdp-cookie", "source", "uri", "url_param")
_PIECES = re.compile(r"""[\s,()/{}"'\\]+""")
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")
_NAMES_SERVERS = re.compile(r"\bsrv_|\btrack\b|\buse-server\b")
"""What refers to servers by their names, also in a way of which only HAProxy knows the outcome."""


class Template(Struct, frozen=True):
    """The servers of a ``server-template``: their names begin so, and end with one of these numbers."""

    prefix: str
    numbers: range

    def makes(self, server: str) -> bool:
        """True for one of its servers."""
        number = server.removeprefix(self.prefix)
        return server.startswith(self.prefix) and number in map(str, self.numbers)


class Section(Struct, frozen=True, kw_only=True):
    """What a ``backend`` or ``listen`` section says of its servers.

    ``sticky``: sessions are bound to servers by cookies or tables. ``hashed``: requests are spread by
    consistent hashing over the servers' numbers. ``untouched`` and ``templates`` name servers that
    are not ours; ``others`` are their lines, as far as they can be read.
    ``opaque``: what HAProxy has in it is known to nobody but HAProxy, so none of it is ours.
    """

    servers: Mapping[str, Server]
    others: tuple[Server, ...] = ()
    sticky: bool = False
    hashed: bool = False
    untouched: frozenset[str] = frozenset()
    templates: tuple[Template, ...] = ()
    opaque: bool = False

    def is_ours(self, server: str) -> bool:
        """True for a server that may be changed at runtime."""
        return not (
            self.opaque
            or server in self.untouched
            or server.startswith(UNTOUCHED)
            or any(template.makes(server) for template in self.templates)
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
    disabled: bool = False
    opaque: bool = False


class _Open:
    """A section while it is read. ``others`` has server lines that can be read and are not ours.

    ``numbers`` says on which line each of the ``servers`` stands.
    """

    def __init__(self, traits: _Traits) -> None:
        self.traits = traits
        self.servers: dict[str, Server] = {}
        self.numbers: dict[str, int] = {}
        self.others: list[Server] = []
        self.untouched: set[str] = set()
        self.templates: list[Template] = []

    def notice(self, found: tuple[str, ...], *, certain: bool) -> None:
        """Takes in a line that is no server of ours. ``certain``: HAProxy reads these very words."""
        traits = self.traits
        match found:
            case ["default-server" | "disabled" | "enabled" | "server-template", *_] if not certain:
                self.hides()
            case ["default-server", *options]:
                self.traits = structs.replace(traits, default=merged(traits.default, tuple(options)))
            case ["balance", algorithm, *_]:
                self.traits = structs.replace(traits, algorithm=algorithm)
            case ["hash-type", kind, *_]:
                self.traits = structs.replace(traits, consistent=kind == "consistent")
            case ["disabled" | "enabled" as state]:
                self.traits = structs.replace(traits, disabled=state == "disabled")
            case ["server-template", prefix, numbers, *_]:
                self._makes(prefix, numbers)
            case ["server", name, *_]:
                self.untouched.add(name)
            # a `use-server` by a format chooses draining servers, too
            case [keyword, name, *_] if keyword in _STICKY or (keyword == "use-server" and "%" in name):
                self.traits = structs.replace(traits, sticky=True)
            case _:
                pass

    def _makes(self, prefix: str, numbers: str) -> None:
        """A ``server-template`` for ``3`` servers, or those of ``2-5``."""
        found = _RANGE.fullmatch(numbers)
        if found is None:
            self.hides()
            return
        first, last = (1, int(found[1])) if found[2] is None else (int(found[1]), int(found[2]))
        self.templates.append(Template(prefix, range(first, last + 1)))

    def hides(self) -> None:
        """Nobody but HAProxy can tell what is in it."""
        self.traits = structs.replace(self.traits, opaque=True)


def layout(text: str) -> Layout:
    """Takes a configuration apart."""
    reader = _Reader()
    lines = text.split("\n")
    number, last = 0, len(lines) - 1
    while (number := reader.take_servers(lines, number, last)) < last:
        reader.read(number, lines[number], whole=True)
        number += 1
    reader.read(last, lines[last], whole=False)
    return reader.layout(lines)


class _Reader:
    """Reads a configuration line by line. ``_now`` is the section that can have servers, or a defaults."""

    def __init__(self) -> None:
        self._rest: dict[int, str] = {}
        self._defaults: dict[str, _Open] = {}
        self._latest = _Open(_Traits())
        self._sections: dict[str, _Open] = {}
        self._earlier: list[_Open] = []
        self._now: _Open | None = None
        self._can_serve = False
        self._serving: _Open | None = None
        """``_now`` where a server line is ours if it can be read."""
        self._conditions = 0

    def take_servers(self, lines: Sequence[str], first: int, end: int) -> int:
        """Takes servers of ours, as most lines are; the number of the first other one, or ``end``."""
        now = self._serving
        if now is None or now.traits.opaque:
            return first
        default = now.traits.default
        for number in range(first, end):
            server = server_of_line(lines[number], default)
            if server is None or server.name in now.servers:
                return number
            now.servers[server.name] = server
            now.numbers[server.name] = number
        return end

    def read(self, number: int, line: str, *, whole: bool) -> None:
        """Any other line; ``whole``: it ends with a line feed."""
        if self._serving is not None:
            server = server_of_line(line, self._serving.traits.default)
            if server is not None:
                self._serving.others.append(server)
        found = words(line)
        if found:
            self._rest[number] = normal(line)
            self._take(found, literal=literal_words(line) is not None)
            self._serving = None if self._conditions or not self._can_serve else self._now
        if line and not whole:
            self._rest[number] = f"{normal(line)} (no line feed)"

    def _take(self, found: tuple[str, ...], *, literal: bool) -> None:
        """A line that is no server of ours. ``literal``: HAProxy reads these very words."""
        certain = literal and not self._conditions
        keyword, now = found[0], self._now
        if keyword in _SECTIONS:
            self._open(found, certain=certain)
        elif keyword.startswith("."):
            self._conditions += {".if": 1, ".endif": -1}.get(keyword, 0)
        elif now is not None:
            now.notice(found, certain=certain)
            if keyword == "server" and not literal:
                now.hides()

    def layout(self, lines: Sequence[str]) -> Layout:
        """What was read from these lines."""
        if any(_is_made_up(line) and _NAMES_SERVERS.search(line) for line in self._rest.values()):
            for section in self._sections.values():
                section.hides()
        for section in self._earlier:
            section.hides()
            self._closed(section, frozenset(), lines)
        referred = _references(self._rest.values(), self._sections.values())
        sections = {name: self._closed(section, referred, lines) for name, section in self._sections.items()}
        return Layout(
            rest=tuple(line for _, line in sorted(self._rest.items())),
            sections=sections,
            numbers={
                name: section.numbers for name, section in self._sections.items() if sections[name].hashed
            },
        )

    def _closed(self, section: _Open, referred: frozenset[str], lines: Sequence[str]) -> Section:
        """The section, after what is not ours of it went to the rest."""
        traits = section.traits
        opaque = traits.opaque or traits.disabled
        elsewhere = section.untouched | {server.name for server in section.others}
        names = [
            name
            for name in section.servers
            if opaque or name in referred or name in elsewhere or name.startswith(UNTOUCHED)
        ]
        others = [section.servers.pop(name) for name in names]
        for name in names:
            number = section.numbers.pop(name)
            self._rest[number] = normal(lines[number])
        return Section(
            servers=section.servers,
            others=(*others, *section.others),
            sticky=traits.sticky or traits.algorithm.startswith("rdp-cookie"),
            hashed=traits.consistent and traits.algorithm.startswith(_HASHES),
            untouched=frozenset(section.untouched | set(names)),
            templates=tuple(section.templates),
            opaque=opaque,
        )

    def _open(self, found: tuple[str, ...], *, certain: bool) -> None:
        keyword, name = found[0], found[1] if len(found) > 1 else ""
        self._now, self._can_serve = None, keyword in ("backend", "listen")
        if keyword not in _PROXIES or keyword == "frontend":
            return
        parent: _Open | None = self._latest
        if "from" in found[1:-1]:
            parent = self._defaults.get(found[found.index("from") + 1])
        elif keyword == "defaults":
            parent = _Open(_Traits())
        self._now = _Open(parent.traits if parent is not None else _Traits(opaque=True))
        if not certain:
            self._now.hides()
        if keyword == "defaults":
            self._latest = self._now
            self._defaults[name] = self._now
            return
        if name in self._sections:  # a `listen` may have the name of a `backend`
            self._now.hides()
            self._earlier.append(self._sections[name])
        self._sections[name] = self._now


def _references(rest: Iterable[str], sections: Iterable[_Open]) -> frozenset[str]:
    """The names of servers that something in the text may refer to."""
    found: set[str] = set()
    for line in rest:
        if "(" in line or "/" in line or "use-server" in line or "track" in line:
            found.update(_PIECES.split(line))
    for section in sections:
        for server in (*section.servers.values(), *section.others):
            if "track" in server.options:
                found.update(option.rpartition("/")[2] for option in server.options)
    return frozenset(found)


def _is_made_up(line: str) -> bool:
    """True where HAProxy makes words of something else than what stands there."""
    return ("$" in line and '"' in line) or "\\x" in line
