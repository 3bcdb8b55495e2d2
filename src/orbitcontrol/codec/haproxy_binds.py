"""Where an HAProxy listens for others: the addresses of its ``bind`` lines.

Addresses as in the configuration manual, chapter 4.2 (``bind``) and 11. Left out is what another
machine cannot connect to: paths, inherited descriptors, loopback, QUIC, and what only the environment knows.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator

from orbitcontrol.codec.haproxy_words import words

_FAMILIES = frozenset({"ipv4", "ipv6", "tcp", "tcp4", "tcp6"})
_ANY = frozenset({"", "*", "0.0.0.0", "::"})  # noqa: S104 -- HAProxy's words
_FIRST_PORT = re.compile(r"\+?(\d+)")


def binds(lines: Iterable[str], *, host: str) -> tuple[str, ...]:
    """Every ``host:port`` that the lines of a configuration bind, sorted; any address is the ``host``'s.

    Of a range of ports it is the first: all of them are one process.
    """
    found: set[str] = set()
    for line in lines:
        if "bind" not in line:
            continue
        match words(line):
            case ["bind", addresses, *_]:
                found.update(_places(addresses, host))
            case _:
                pass
    return tuple(sorted(found))


def _places(addresses: str, host: str) -> Iterator[str]:
    for address in addresses.split(","):
        family, at, place = address.rpartition("@")
        name, _, ports = place.rpartition(":")
        port = _FIRST_PORT.match(ports)
        if (at and family not in _FAMILIES) or "$" in address or place.startswith("/") or port is None:
            continue
        name = name.strip("[]")
        name = host if name in _ANY else name
        if _is_loopback(name) and not _is_loopback(host):
            continue
        yield f"[{name}]:{port[1]}" if ":" in name else f"{name}:{port[1]}"


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
