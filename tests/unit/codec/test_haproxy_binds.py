"""Where other machines reach an HAProxy, by its configuration."""

import pytest

from orbitcontrol.codec.haproxy_binds import binds


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("bind *:80", ["10.0.0.7:80"]),
        ("bind :80 ssl crt /x", ["10.0.0.7:80"]),
        ("  bind 0.0.0.0:80  # all", ["10.0.0.7:80"]),
        ("bind :::80 v4v6", ["10.0.0.7:80"]),
        ("bind [::]:80", ["10.0.0.7:80"]),
        ("bind 10.0.0.8:80,10.0.0.9:443", ["10.0.0.8:80", "10.0.0.9:443"]),
        ("bind ipv4@10.0.0.8:80", ["10.0.0.8:80"]),
        ("bind ipv6@2001:db8::1:80", ["[2001:db8::1]:80"]),
        ("bind [2001:db8::1]:80", ["[2001:db8::1]:80"]),
        ("bind 10.0.0.8:8000-8010", ["10.0.0.8:8000"]),
        ('bind "10.0.0.8:80"', ["10.0.0.8:80"]),
        ("bind quic4@:443 ssl", []),
        ("bind unix@/run/x.sock", []),
        ("bind /run/x.sock", []),
        ("bind abns@x", []),
        ("bind fd@3", []),
        ("bind ${HOST}:80", []),
        ("bind 127.0.0.1:80", []),
        ("bind [::1]:80", []),
        ("bind localhost:80", []),
        ("bind", []),
        ("description bind :80", []),
    ],
)
def test_a_bind_line_is_where_others_can_connect(line: str, found: list[str]) -> None:
    assert binds(["frontend f", line], host="10.0.0.7") == tuple(found)


def test_a_machine_known_by_its_loopback_address_is_reached_there() -> None:
    assert binds(["bind 127.0.0.1:80", "bind :81"], host="127.0.0.1") == ("127.0.0.1:80", "127.0.0.1:81")


def test_an_ipv6_machine_is_written_with_brackets() -> None:
    assert binds(["bind *:80", "bind *:80", "bind :79"], host="fd00::7") == ("[fd00::7]:79", "[fd00::7]:80")
