"""Servers of hash-balanced sections have numbers of their own, and keep them."""

from __future__ import annotations

import itertools
import zlib

import pytest

from orbitcontrol.codec.haproxy_text import Layout, layout
from orbitcontrol.planning.server_ids import LARGEST, numbered


def text(*servers: str, rest: str = "") -> str:
    lines = "".join(f"  server {server}\n" for server in servers)
    return f"backend b\n  balance uri\n  hash-type consistent\n{rest}{lines}"


def numbers(made: tuple[str, Layout], section: str = "b") -> dict[str, int]:
    return {name: server.id for name, server in made[1].sections[section].servers.items()}


def test_a_number_depends_on_the_name_alone() -> None:
    alone = numbers(numbered(text("s :80"), before=None))
    among = numbers(numbered(text("a :81", "s :82 check", "z :83"), before=None))
    assert among["s"] == alone["s"] == zlib.crc32(b"s") & LARGEST


def test_the_number_stands_in_the_text() -> None:
    made, _ = numbered(text("s :80 check # x"), before=None)
    assert f"  server s :80 id {zlib.crc32(b's') & LARGEST} check # x\n" in made


@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("a comment glued to its address", "s :80#x"),
        ("quotes", "'s' \":80\" check"),
        ("a carriage return", "s :80\r"),
    ],
)
def test_it_is_read_back_whatever_its_line_looks_like(case: str, line: str) -> None:
    made, read = numbered(text(line), before=None)
    assert numbers((made, read)) == {"s": zlib.crc32(b"s") & LARGEST}, case
    assert numbered(made, before=read) == (made, read)


def colliding() -> tuple[str, str]:
    """Two names whose numbers would be the same: their lowest 20 bits are."""
    seen: dict[int, str] = {}
    for number in itertools.count():
        name = f"web-10.0.{number >> 8}.{number & 255}:80"
        other = seen.setdefault(zlib.crc32(name.encode()) & LARGEST, name)
        if other != name:
            return other, name
    raise AssertionError


def test_names_that_collide_get_numbers_of_their_own_and_keep_them() -> None:
    one, two = colliding()
    both = numbered(text(f"{one} :80", f"{two} :81"), before=None)
    had = numbers(both)
    assert len(set(had.values())) == 2
    for name in (one, two):
        left = numbered(text(f"{name} :80"), before=both[1])
        assert numbers(left) == {name: had[name]}
        assert numbers(numbered(text(f"{one} :80", f"{two} :81"), before=left[1]))[name] == had[name]


def test_a_number_that_the_template_gives_stays_and_is_nobody_elses() -> None:
    taken = zlib.crc32(b"s") & LARGEST
    made = numbers(numbered(text(f"a :80 id {taken}", "s :81"), before=None))
    assert made == {"a": taken, "s": taken + 1}


def test_the_number_of_a_server_that_is_not_ours_is_nobody_elses_either() -> None:
    taken = zlib.crc32(b"s") & LARGEST
    made = numbers(numbered(text(f"nocheck-a :80 id {taken}", "s :81"), before=None))
    assert made == {"s": taken + 1}


def test_a_number_given_by_the_template_later_drives_out_the_one_that_was_made() -> None:
    before = numbered(text("s :81"), before=None)[1]
    taken = before.sections["b"].servers["s"].id
    made = numbers(numbered(text(f"a :80 id {taken}", "s :81"), before=before))
    assert made["a"] == taken
    assert made["s"] != taken


def test_sections_of_other_kinds_have_no_numbers() -> None:
    plain = "backend b\n  balance roundrobin\n  server s :80\n"
    assert numbered(plain, before=None) == (plain, layout(plain))
