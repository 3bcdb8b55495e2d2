"""Which servers HAProxy looks after by itself, read off its configuration."""

from __future__ import annotations

import pytest

from orbitcontrol.codec.haproxy_text import layout
from orbitcontrol.planning.rotation import Place
from orbitcontrol.planning.server_checks import checked_servers

HERE = Place("web", "10.0.0.1:80")


@pytest.mark.parametrize(
    ("case", "text", "checked"),
    [
        ("a check on its line", "backend b\n  server s 10.0.0.1:80 check inter 1s", True),
        ("none", "backend b\n  server s 10.0.0.1:80", False),
        ("a check in a comment", "backend b\n  server s 10.0.0.1:80 # check", False),
        ("a name that only sounds like it", "backend b\n  server check 10.0.0.1:80 weight 1", False),
        ("another server's check", "backend b\n  server s 10.0.0.1:80\n  server t 10.0.0.1:8 check", False),
        ("it follows another server's check", "backend b\n  server s 10.0.0.1:80 track a/b", True),
        ("the section's default", "backend b\n  default-server check\n  server s 10.0.0.1:80", True),
        ("a default behind it", "backend b\n  server s 10.0.0.1:80\n  default-server check", False),
        (
            "its line takes the default back",
            "backend b\n  default-server check\n  server s 10.0.0.1:80 no-check",
            False,
        ),
        (
            "another section's default",
            "backend a\n default-server check\nlisten b\n server s 10.0.0.1:80",
            False,
        ),
        ("the defaults'", "defaults\n  default-server check\nbackend b\n  server s 10.0.0.1:80", True),
        (
            "later defaults count",
            "defaults\n  default-server check\ndefaults\n  mode http\nbackend b\n  server s 10.0.0.1:80",
            False,
        ),
        (
            "defaults by name",
            "defaults d\n default-server check\ndefaults\nbackend b from d\n server s 10.0.0.1:80",
            True,
        ),
        (
            "defaults that inherit",
            "defaults d\n default-server check\ndefaults e from d\nbackend b\n server s 10.0.0.1:80",
            True,
        ),
        (
            "one of two lines without a check",
            "backend a\n  server s 10.0.0.1:80 check\nbackend b\n  server s 10.0.0.1:80",
            False,
        ),
        ("recognised by its name", "backend b\n  server web-10.0.0.1:80 10.0.0.1:81 check", True),
        ("a family before its address", "backend b\n  server s ipv4@10.0.0.1:80 check", True),
        ("its author's alone", "backend b\n  server nocheck-web-10.0.0.1:80 10.0.0.1:80", True),
        (
            "its author's alone, wherever it leads",
            "backend b\n  server nocheck-web-10.0.0.1:80 proxy.example:80",
            True,
        ),
        ("not in the configuration", "backend b\n  server s 10.0.0.2:80 check", False),
    ],
)
def test_haproxy_looks_after_a_server_when_all_its_lines_say_so(
    case: str, text: str, *, checked: bool
) -> None:
    assert checked_servers(layout(text), [HERE]) == ({HERE} if checked else set()), case
