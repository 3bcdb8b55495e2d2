"""Numbers for the servers of a hash-balanced backend, so that each keeps its share of the requests.

Consistent hashing places a server by its number. HAProxy numbers servers by their order, so one
that comes or goes would move the requests of all behind it with the next reload. Each line gets its
number from the server's name instead: the same on every load balancer, in the file and at runtime.

HAProxy (``src/lb_chash.c``) places number * 4096 + point in 32 bits, so only the lowest 20 bits of a
number count: two that differ in higher bits alone would fall on the same places.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import lru_cache

from orbitcontrol.codec.haproxy_text import Layout, Section, layout
from orbitcontrol.codec.haproxy_words import end_of_word

LARGEST = (1 << 20) - 1

_ADDRESS = 3
"""Which word of a server line is the last before its options."""


def numbered(text: str, *, before: Layout | None) -> tuple[str, Layout]:
    """The text with a number on every server line of a hash-balanced section, and its layout.

    Numbers that the template gives stay; so do those that a server had ``before``.
    """
    read = layout(text)
    hashed = {name: section for name, section in read.sections.items() if section.hashed}
    if not hashed:
        return text, read
    lines = text.split("\n")
    for name, section in hashed.items():
        earlier = before.sections.get(name) if before is not None else None
        for server, number in _numbers(section, earlier).items():
            at = read.numbers[name][server]
            lines[at] = _with_number(lines[at], number)
    text = "\n".join(lines)
    return text, layout(text)


@lru_cache(maxsize=16384)
def _with_number(line: str, number: int) -> str:
    end = end_of_word(line, _ADDRESS)
    return f"{line[:end]} id {number}{line[end:]}"


def _numbers(section: Section, earlier: Section | None) -> Mapping[str, int]:
    """The numbers of the servers that have none."""
    lacking = sorted(name for name, server in section.servers.items() if not server.id)
    had = {name: server.id for name, server in earlier.servers.items()} if earlier is not None else {}
    taken = {server.id for server in (*section.servers.values(), *section.others)}
    numbers: dict[str, int] = {}
    for name in sorted(lacking, key=lambda each: (not had.get(each), each)):
        number = had.get(name) or zlib.crc32(name.encode()) & LARGEST
        while number in taken or not 0 < number <= LARGEST:
            number = number + 1 if number < LARGEST else 1
        taken.add(number)
        numbers[name] = number
    return numbers
