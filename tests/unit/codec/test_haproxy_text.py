"""A configuration as its servers and its rest: what may be changed at runtime, and what must not."""

from __future__ import annotations

import pytest

from orbitcontrol.codec.haproxy_text import Layout, Section, layout
from orbitcontrol.codec.haproxy_words import end_of_word, words

BEFORE = "global\n  maxconn 9\n"


def section(text: str, name: str = "b") -> Section:
    return layout(f"{BEFORE}{text}\n").sections[name]


@pytest.mark.parametrize(
    ("case", "line", "found"),
    [
        ("spaces and tabs separate", " a\tb  c ", ("a", "b", "c")),
        ("so does a carriage return, as C has it", "a b\r", ("a", "b")),
        ("a no-break space does not", "a\u00a0b", ("a\u00a0b",)),
        ("nor does a separator of Unicode's", "a\x1cb", ("a\x1cb",)),
        ("quotes keep spaces", "a \"b c\" 'd e'", ("a", "b c", "d e")),
        ("quotes are part of the word around them", "a'b'\"c\"", ("abc",)),
        ("a backslash keeps a space", r"a\ b c", ("a b", "c")),
        ("and a quote inside quotes", r'"a\"b"', ('a"b',)),
        ("a comment ends the line", "a b # c", ("a", "b")),
        ("also in the middle of a word", "a b#c", ("a", "b")),
        ("not in quotes", "a '#b'", ("a", "#b")),
        ("a comment alone", "# backend x", ()),
    ],
)
def test_words_are_those_that_haproxy_reads(case: str, line: str, found: tuple[str, ...]) -> None:
    assert words(line) == found, case


def test_the_end_of_a_word_is_before_a_comment_that_is_glued_to_it() -> None:
    line = "server 'a' 10.0.0.1:80#old"
    assert line[: end_of_word(line, 3)] == "server 'a' 10.0.0.1:80"


@pytest.mark.parametrize(
    ("case", "text", "names"),
    [
        ("a server of a backend", "backend b\n  server s 10.0.0.1:80", {"s"}),
        ("of a listen", "listen b\n  bind :1\n  server s 10.0.0.1:80", {"s"}),
        ("nothing needs to be indented", "backend b\nserver s 10.0.0.1:80", {"s"}),
        ("the section's name in quotes", "backend 'b' # x\n  server s 10.0.0.1:80", {"s"}),
        ("the server's name in quotes", "backend b\n  'server' \"s\" '10.0.0.1:80'", {"s"}),
        ("a comment behind it", "backend b\n  server s 10.0.0.1:80#x", {"s"}),
        ("a line that ends as on Windows", "backend b\r\n  server s 10.0.0.1:80\r", {"s"}),
        ("a unix socket", "backend b\n  server s unix@/run/s", {"s"}),
        ("names like keywords", "backend b\n  server server 10.0.0.1:80\n  server id :80", {"server", "id"}),
        ("a section named like a keyword", "backend b\nbackend global\n  server s 10.0.0.1:80", set()),
        ("a section inside a comment", "backend b\n  # backend c\n  server s 10.0.0.1:80", {"s"}),
        ("a frontend of the same name", "backend b\n  server s 10.0.0.1:80\nfrontend b\n  bind :1", {"s"}),
        ("its author's", "backend b\n  server nocheck-s 10.0.0.1:80", set()),
        ("of a template", "backend b\n  server-template s 3 10.0.0.1:80", set()),
        ("beside a template", "backend b\n  server-template s 3 :80\n  server s4 10.0.0.1:80", {"s4"}),
        ("a name that stands twice", "backend b\n  server s 10.0.0.1:80\n  server s 10.0.0.2:80", set()),
        (
            "a name that stands twice, once in a way that is not understood",
            "backend b\n  server s 10.0.0.1:80\n  server s 10.0.0.2:80 id 9 weight x",
            set(),
        ),
        ("inside .if", "backend b\n.if defined(X)\n  server s 10.0.0.1:80\n.endif", set()),
        ("behind .endif", "backend b\n.if defined(X)\n.endif\n  server s 10.0.0.1:80", {"s"}),
        ("a variable in its options", 'backend b\n  server s 10.0.0.1:80 maxconn "$M"', set()),
        ("a variable in its address", "backend b\n  server s $HOST:80\n  server t :80", {"t"}),
        ("a weight that is no number", "backend b\n  server s 10.0.0.1:80 weight 5x", set()),
        ("a number that is none", "backend b\n  server s 10.0.0.1:80 id x", set()),
        ("a word that is escaped", "backend b\n  server s 10.0.0.1:80 sni str(\\,)", set()),
        ("an empty word", "backend b\n  server s 10.0.0.1:80 source ''", set()),
        ("a quote that is not closed", "backend b\n  server s 10.0.0.1:80 'x", set()),
        ("no address", "backend b\n  server s", set()),
        ("more words than a line may have", "backend b\n  server s :80" + " backup" * 62, set()),
        ("as many as it may", "backend b\n  server s :80" + " backup" * 61, {"s"}),
    ],
)
def test_which_servers_may_be_changed_at_runtime(case: str, text: str, names: set[str]) -> None:
    assert section(text).servers.keys() == names, case


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("a server's name is a variable's", 'backend b\n  server s 10.0.0.1:80\n  server "$N" 10.0.0.2:80'),
        ("its name is escaped", "backend b\n  server s 10.0.0.1:80\n  server \\x61 10.0.0.2:80"),
        ("how many a template makes is not clear", "backend b\n  server s :80\n  server-template t 1- :80"),
        ("a template's prefix is a variable's", 'backend b\n  server s :80\n  server-template "$N" 2 :80'),
        (
            "its default-server depends on a variable",
            'backend b\n  default-server weight "$W"\n  server s :80',
        ),
        (
            "a default-server inside .if",
            "backend b\n.if defined(X)\n  default-server backup\n.endif\n  server s :80",
        ),
        (
            "inherited from such a defaults",
            'defaults\n  default-server weight "$W"\nbackend b\n  server s :80',
        ),
        (
            "inherited from a defaults inside .if",
            ".if defined(X)\ndefaults\n.endif\nbackend b\n  server s :80",
        ),
        ("from a defaults that is not there", "backend b from d\n  server s :80"),
        (
            "begun inside .if",
            ".if defined(X)\nbackend b\n.else\nbackend c\n.endif\n  server s :80\nbackend b",
        ),
        ("a listen of the same name", "backend b\n  server s :80\nlisten b\n  server t :80"),
        ("disabled", "backend b\n  disabled\n  server s :80"),
        ("disabled behind its servers", "backend b\n  server s :80\n  disabled"),
        ("a use-server by a variable", 'backend b\n  server s :80\nbackend c\n  use-server "$N" if TRUE'),
        (
            "a reference by a variable",
            'backend b\n  server s :80\nbackend c\n  acl a srv_is_up("b/$N")\n  http-request deny if a',
        ),
    ],
)
def test_nothing_is_touched_in_a_section_that_only_haproxy_knows(case: str, text: str) -> None:
    found = section(text)
    assert found.servers == {}, case
    assert not found.is_ours("added-by-hand")


def test_a_disabled_section_that_is_enabled_again_is_like_others() -> None:
    text = "defaults\n  disabled\nbackend b\n  enabled\n  server s :80"
    assert section(text).servers.keys() == {"s"}


@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("chosen by a rule", "use-server s if TRUE"),
        ("chosen by a rule, its name in quotes", "use-server 's' unless { path /s\\d }"),
        ("followed by another's check", "server t 10.0.0.2:80 track b/s"),
        ("followed inside the section", "server t 10.0.0.2:80 track s"),
        ("followed by a server inside .if", ".if defined(X)\n  server t 10.0.0.2:80 track s\n.endif"),
        ("followed by default", "default-server track s"),
        ("asked for by a rule", "http-request deny if { srv_is_up(s) }"),
        ("asked for from elsewhere", "acl up srv_is_up(b/s)"),
        ("asked for inside a format", "http-request set-header X %[srv_conn(b/s),add(1)]"),
        ("asked for in quotes", "acl few srv_conn('b/s') lt 3"),
    ],
)
def test_a_server_that_something_refers_to_is_not_taken_out_of_the_text(case: str, line: str) -> None:
    found = section(f"backend b\n  {line}\n  server s 10.0.0.1:80 check\n  server free 10.0.0.3:80")
    assert "s" not in found.servers, case
    assert "free" in found.servers
    assert not found.is_ours("s")


def test_servers_of_one_name_in_several_sections_are_several() -> None:
    found = layout("backend b\n  server s 10.0.0.1:80\nbackend c\n  server s 10.0.0.2:80\n")
    assert {name: each.servers["s"].address for name, each in found.sections.items()} == {
        "b": "10.0.0.1:80",
        "c": "10.0.0.2:80",
    }


def test_lines_called_server_of_other_kinds_of_sections_are_no_servers() -> None:
    text = "backend b\n  server s :80\npeers p\n  server x :1\nring r\n  server y :2\n"
    found = layout(f"{text}frontend f\n  server z :3\n")
    assert found.sections.keys() == {"b"}
    assert found.sections["b"].servers.keys() == {"s"}
    assert {"server x :1", "server y :2", "server z :3"} <= set(found.rest)


@pytest.mark.parametrize(
    ("case", "text", "options"),
    [
        ("its own", "backend b\n  server s :80 check weight 2", "check weight 2"),
        (
            "the section's, then its own",
            "backend b\n  default-server inter 2s\n  server s :80 check",
            "inter 2s check",
        ),
        (
            "those of several",
            "backend b\n  default-server inter 2s\n  default-server backup\n  server s :80",
            "inter 2s backup",
        ),
        ("not of one that comes later", "backend b\n  server s :80\n  default-server backup", ""),
        ("not of another section", "backend a\n  default-server backup\nbackend b\n  server s :80", ""),
        ("of the defaults", "defaults\n  default-server backup\nbackend b\n  server s :80", "backup"),
        (
            "of the last defaults alone",
            "defaults\n  default-server backup\ndefaults\nbackend b\n  server s :80",
            "",
        ),
        (
            "of named defaults",
            "defaults d\n  default-server backup\ndefaults\nbackend b from d\n  server s :80",
            "backup",
        ),
        (
            "of defaults of defaults",
            "defaults d\n  default-server backup\ndefaults e from d\nbackend b\n  server s :80",
            "backup",
        ),
        (
            "without what it takes back",
            "backend b\n  default-server check ssl\n  server s :80 no-check no-ssl",
            "",
        ),
        (
            "enabled in spite of its default",
            "backend b\n  default-server disabled\n  server s :80 enabled",
            "",
        ),
        ("disabled again", "backend b\n  default-server enabled\n  server s :80 disabled", "disabled"),
    ],
)
def test_options_are_those_in_its_scope(case: str, text: str, options: str) -> None:
    assert section(text).servers["s"].options == tuple(options.split()), case


@pytest.mark.parametrize(
    ("case", "address", "place"),
    [
        ("an IPv4 address", "10.0.0.1:80", ("10.0.0.1", 80)),
        ("without a port", "10.0.0.1", ("10.0.0.1", 0)),
        ("an IPv6 address", "[2001:db8::1]:80", ("2001:db8::1", 80)),
        ("whose last number is the port", "::1:80", ("::1", 80)),
        ("without a port, in brackets", "[::1]", ("::1", 0)),
        ("a family before it", "ipv4@10.0.0.1:80", ("10.0.0.1", 80)),
        ("a mapped port", "10.0.0.1:+80", None),
        ("any", "*:80", None),
        ("a name", "example.com:80", None),
        ("a path", "/run/s", None),
        ("an agent that may change it", "10.0.0.1:80 agent-check agent-port 1", None),
    ],
)
def test_where_and_how_a_server_runs_is_known_when_its_line_settles_it(
    case: str, address: str, place: tuple[str, int] | None
) -> None:
    said = section(f"backend b\n  server s {address}").servers["s"].as_said
    assert (None if said is None else (said.host, said.port)) == place, case
    if said is not None:
        assert (said.admin, said.weight, said.down) == ("ready", 1, False)


@pytest.mark.parametrize(
    ("case", "line", "is_in_file"),
    [
        ("an IP", "10.0.0.1:80", False),
        ("any address", ":80", False),
        ("a mapped port", "10.0.0.1:+80", False),
        ("a unix socket", "unix@/run/s", False),
        ("a path", "/run/s", False),
        ("a name", "example.com:80", True),
        ("a name that looks like a number", "10.0.0:80", True),
        ("options that just fit into a command", ":80" + " backup" * 60, False),
        ("one more", ":80" + " backup" * 61, True),
    ],
)
def test_what_cannot_be_added_at_runtime_is_known(case: str, line: str, *, is_in_file: bool) -> None:
    assert (section(f"backend b\n  server s {line}").servers["s"].only_in_a_file() is not None) is is_in_file


@pytest.mark.parametrize(
    ("case", "lines", "sticky", "hashed"),
    [
        ("neither", "balance roundrobin", False, False),
        ("a cookie", "cookie S insert", True, False),
        ("a table", "stick-table type ip size 9\n  stick on src", True, False),
        ("a table that only counts", "stick-table type ip size 9", False, False),
        ("a cookie of RDP", "persist rdp-cookie", True, False),
        ("balanced by it", "balance rdp-cookie", True, False),
        ("a server chosen by the request", "use-server %[req.hdr(x)] if TRUE", True, False),
        ("map-based hashing", "balance uri", False, False),
        ("consistent hashing", "balance uri whole\n  hash-type consistent", False, True),
        ("of a header", "hash-type consistent sdbm avalanche\n  balance hdr(Host)", False, True),
        ("consistent, and not hashed", "hash-type consistent\n  balance leastconn", False, False),
    ],
)
def test_what_a_section_says_of_all_its_servers(case: str, lines: str, *, sticky: bool, hashed: bool) -> None:
    for text in (f"backend b\n  {lines}\n  server s :80", f"defaults\n  {lines}\nbackend b\n  server s :80"):
        found = section(text)
        assert (found.sticky, found.hashed) == (sticky, hashed), case


def same_rest(one: str, other: str) -> bool:
    return layout(one).rest == layout(other).rest


@pytest.mark.parametrize(
    ("case", "one", "other"),
    [
        ("other servers", "backend b\n  server s :80\n", "backend b\n  server t :81\n  server u :82\n"),
        ("other spaces", "backend b\n  mode http\n", "backend b\n\n\tmode   http \r\n"),
        ("other comments", "backend b\n  mode http\n", "# x\nbackend b # y\n  mode http\n"),
    ],
)
def test_what_makes_no_difference_to_haproxy_needs_no_reload(case: str, one: str, other: str) -> None:
    assert same_rest(one, other), case


@pytest.mark.parametrize(
    ("case", "one", "other"),
    [
        ("quotes that hold words together", "a 'b c'\n", "a b c\n"),
        ("a backslash that does", "a b\\ c\n", "a b c\n"),
        ("a variable that is read", 'a "$B"\n', "a '$B'\n"),
        ("a space that is none", "a b\n", "a\u00a0b\n"),
        ("spaces inside quotes", "a 'b c'\n", "a 'b  c'\n"),
        ("a comment that is none", "a '# b'\n", "a '#  b'\n"),
        ("a server where none may be", "frontend f\n", "frontend f\n  server s :80\n"),
        ("a server before any section", "", "server s :80\n"),
        ("a server of the defaults", "defaults\n", "defaults\n  server s :80\n"),
        ("no line feed at the end", "backend b\n  server s :80\n", "backend b\n  server s :80"),
        ("a comment without one", "backend b\n# x\n", "backend b\n# x"),
        ("a server of a doubled section", "backend b\nlisten b\n", "backend b\n  server s :80\nlisten b\n"),
        ("a server that is referred to", "backend b\n  use-server s if TRUE\n",
         "backend b\n  use-server s if TRUE\n  server s :80\n"),
        ("a server with a variable", "backend b\n", 'backend b\n  server s :80 weight "$W"\n'),
    ],
)  # fmt: skip
def test_what_haproxy_may_read_otherwise_is_never_taken_for_the_same(case: str, one: str, other: str) -> None:
    assert not same_rest(one, other), case


def test_a_line_keeps_no_trace_of_its_weight() -> None:
    line = section("backend b\n  default-server weight 3\n  server s :80 check weight 5 backup").servers["s"]
    assert line.weight == 5
    assert line.without_weight() == ("s", ":80", "check", "backup")


def test_servers_of_a_template_are_known_by_their_names() -> None:
    found = section("backend b\n  server-template s 3 :80\n  server-template t 7-8 :80")
    names = ("s1", "s3", "s0", "s4", "s01", "s", "sx", "t7", "t1", "nocheck-a")
    ours = {name: found.is_ours(name) for name in names}
    assert {name for name, is_ours in ours.items() if not is_ours} == {"s1", "s3", "t7", "nocheck-a"}


def test_the_lines_of_numbered_servers_are_told_for_hashed_sections_alone() -> None:
    found: Layout = layout(
        "backend b\n  balance uri\n  hash-type consistent\n  server s :80\nbackend c\n  server t :81\n"
    )
    assert found.numbers == {"b": {"s": 3}}
