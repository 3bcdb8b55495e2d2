"""What HAProxy is to be given: which template, whether it must be loaded, and why.

A template that was refused does not take the load balancer down: the last good one goes on, with
today's endpoints. Whether there is anything to do is decided by comparing texts and servers, never
by what woke the loop: the same inputs give the same text, and the same text gives no reload (I8).
Changes of servers alone are planned in ``planning.servers``.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

from orbitcontrol.codec.haproxy import Message
from orbitcontrol.codec.haproxy_lines import Server
from orbitcontrol.codec.haproxy_text import Layout
from orbitcontrol.model.configuration import ProxyConfiguration
from orbitcontrol.model.service import Container, Service
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.orphans import Orphan

_NAMED = 5
"""How many servers a reason names before it counts the rest."""

_LINE_IN_TEXT = re.compile(r"\bat line (\d+)\b")
_ADMIN_SOCKET = re.compile(r"^\s*stats\s+socket\s.*\blevel\s+admin\b", re.MULTILINE)
NO_ADMIN_SOCKET = "no `stats socket {{ socket }} … level admin` in `global`: each change is a reload"
_ADVICE = (
    (_ADMIN_SOCKET, NO_ADMIN_SOCKET),
    (
        re.compile(r"^\s*hard-stop-after\s", re.MULTILINE),
        "no `hard-stop-after` in `global`: a worker that leaves after a reload can stay for ever",
    ),
    (
        re.compile(r"^\s*timeout\s+http-request\s", re.MULTILINE),
        "no `timeout http-request`: a client that never sends its request keeps a leaving worker busy",
    ),
    (
        re.compile(r"^\s*retries\s", re.MULTILINE),
        "no `retries`: a request that meets a server on its way out is not tried again",
    ),
    (
        re.compile(r"^\s*option\s+redispatch\b", re.MULTILINE),
        "no `option redispatch`: a retry goes to the same server, which may be gone",
    ),
)


Life = Literal["running", "started", "down"]
"""Whether HAProxy runs; ``started``: since this very moment, from the file on disk."""


class Directories(Struct, frozen=True):
    """Where HAProxy finds a template's certificates and files: its ``certs_dir`` and ``files_dir``."""

    certs: str
    files: str


class ProxyState(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What a load balancer must remember over a restart of its daemon.

    ``good`` is the last template that HAProxy took, with the services it named (a service may be
    gone from the configuration while ``good`` still routes to it); ``endpoints`` are those it
    routes to, ``orphans`` those of them whose machine is gone; ``applied`` is ``loaded`` of the text
    that HAProxy was last seen to load, "" while it is being told to.
    """

    good: ProxyConfiguration | None = None
    services: dict[str, Service] = {}
    endpoints: dict[str, dict[str, Endpoint]] = {}
    orphans: tuple[Orphan, ...] = ()
    applied: str = ""


def as_named(service: Service) -> Service:
    """What a template can see of a service, and nothing else: no environment, no credentials."""
    image = service.image
    return Service(
        name=service.name,
        endpoint_port=service.endpoint_port,
        instances=service.instances,
        attributes=service.attributes,
        container=None if image is None else Container(config={"Image": image}),
    )


def template_path(tag: str) -> str:
    """The template's path in a configuration tree, as messages name it."""
    return f"machineconfigurations/tags/{tag}/haproxy.tpl"


def candidates(
    desired: ProxyConfiguration | None, good: ProxyConfiguration | None
) -> tuple[ProxyConfiguration, ...]:
    """The templates to try, in order: the one wanted, then the last good one."""
    wanted = () if desired is None else (desired,)
    fallback = () if good is None or good == desired else (good,)
    return wanted + fallback


def loaded(layout: Layout) -> str:
    """The fingerprint of what only a reload brings in."""
    return hashlib.sha256("\n".join(layout.rest).encode(errors="surrogateescape")).hexdigest()


def needs_reload(*, wanted: Layout, disk: Layout | None, applied: str) -> str | None:
    """Why HAProxy must load the wanted text, whatever is done at runtime; None when it need not.

    ``applied`` is ``loaded`` of what HAProxy was last seen to load.
    """
    if disk is None:
        return "first configuration"
    if wanted.rest != disk.rest:
        return difference(disk, wanted)
    if loaded(wanted) != applied:
        return "the file on disk was not seen to be loaded"
    return None


def difference(before: Layout, after: Layout) -> str:
    """What changed between two texts, for people."""
    old, new = _servers(before), _servers(after)
    parts = [
        f"{what}: {_some(names)}"
        for what, names in (
            ("servers came", new.keys() - old.keys()),
            ("servers went", old.keys() - new.keys()),
            ("servers changed", {name for name in old.keys() & new.keys() if old[name] != new[name]}),
        )
        if names
    ]
    if before.rest != after.rest:
        parts.append("template, certificates or files changed")
    return "; ".join(parts) or "order of the servers changed"


def size_of_change(before: Layout | None, after: Layout) -> int:
    """How many lines and servers differ."""
    if before is None:
        return len(after.rest) + len(_servers(after))
    old, new = _servers(before), _servers(after)
    servers = sum(old.get(name) != new.get(name) for name in old.keys() | new.keys())
    lines = Counter(after.rest)
    lines.subtract(before.rest)
    return servers + sum(map(abs, lines.values()))


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - _NAMED
    return ", ".join(ordered[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _servers(layout: Layout) -> dict[str, Server]:
    """Every server that can be changed at runtime, by ``section/server``."""
    return {
        f"{name}/{server.name}": server
        for name, section in layout.sections.items()
        for server in section.servers.values()
    }


def explain(
    messages: Sequence[Message], *, tag: str, file: str, lines: Sequence[int] | None
) -> tuple[str, ...]:
    """HAProxy's refusals of the rendered ``file``, each with the template's path and line.

    ``lines`` is ``Rendered.lines``; without it the line is the rendered configuration's, and says so.
    """
    alerts = [message for message in messages if message.severity == "alert"]
    chosen = alerts or [message for message in messages if message.severity != "notice"]
    placed = [_placed(message, tag, file, lines) for message in chosen]
    return tuple(dict.fromkeys(placed)) or (f"{template_path(tag)}: HAProxy refuses it without a word",)


def _placed(message: Message, tag: str, file: str, lines: Sequence[int] | None) -> str:
    """The message behind the place of its fault, every line in it the template's."""
    path = template_path(tag)

    def known(line: int) -> bool:
        return lines is not None and 0 < line <= len(lines)

    def of_template(line: int) -> str:
        return str(lines[line - 1]) if lines and known(line) else f"{line} of the rendered configuration"

    text = _LINE_IN_TEXT.sub(lambda found: f"at line {of_template(int(found[1]))}", message.text)
    in_file = re.compile(re.escape(file) + r":(\d+)")
    text = in_file.sub(lambda found: f"{path}:{of_template(int(found[1]))}", text).replace(file, path)
    if message.line is None:
        return f"{path}: {text}"
    if message.file != file:
        return f"{message.file}:{message.line}: {text}"
    between = "" if known(message.line) else " line "
    return f"{path}:{between}{of_template(message.line)}: {text}"


def in_tree(text: str, tag: str, directories: Directories) -> str:
    """A message with the paths of the tree in place of those where a machine keeps the files."""
    home = f"machineconfigurations/tags/{tag}"
    return text.replace(directories.certs, f"{home}/certs").replace(
        directories.files, f"{home}/haproxy_files"
    )


def advice(text: str) -> tuple[str, ...]:
    """What a configuration lacks that makes reloads and drains safe; each says what it costs."""
    return tuple(message for pattern, message in _ADVICE if not pattern.search(text))


def has_admin_socket(text: str) -> bool:
    """True when servers could be changed without a reload."""
    return _ADMIN_SOCKET.search(text) is not None
