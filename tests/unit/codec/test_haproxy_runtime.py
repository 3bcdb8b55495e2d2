"""HAProxy's runtime interface as values: its servers, its commands, and what it says of them."""

from __future__ import annotations

import pytest

from orbitcontrol.codec.haproxy_runtime import (
    Add,
    Command,
    EnableCheck,
    Remove,
    RunningServer,
    SetAddress,
    SetState,
    SetUp,
    SetWeight,
    parse_servers,
)

HEAD = (
    "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state "
    "srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl "
    "srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n"
)


def row(
    *, address: str = "10.0.0.1", port: int = 80, op: int = 2, admin: int = 0, weight: int = 1, check: int = 0
) -> str:
    return f"3 b 1 s {address} {op} {admin} {weight} 1 9 1 0 0 {check} 0 0 0 - {port} - 0 0 - - 0\n"


@pytest.mark.parametrize(
    ("case", "line", "expected"),
    [
        ("ready", row(), RunningServer(host="10.0.0.1", port=80, admin="ready", weight=1)),
        ("without an address", row(address="-"), RunningServer(host="", port=80, admin="ready", weight=1)),
        ("of IPv6", row(address="::1"), RunningServer(host="::1", port=80, admin="ready", weight=1)),
        (
            "in maintenance, and drained before",
            row(op=0, admin=0x09, weight=7),
            RunningServer(host="10.0.0.1", port=80, admin="maint", weight=7),
        ),
        (
            "disabled by its line",
            row(op=0, admin=0x05),
            RunningServer(host="10.0.0.1", port=80, admin="maint", weight=1),
        ),
        (
            "drained",
            row(admin=0x08, weight=0),
            RunningServer(host="10.0.0.1", port=80, admin="drain", weight=0),
        ),
        (
            "in maintenance because it follows one that is",
            row(op=0, admin=0x02),
            RunningServer(host="10.0.0.1", port=80, admin="ready", weight=1, down=True),
        ),
        (
            "found down by its check",
            row(op=0, check=6),
            RunningServer(host="10.0.0.1", port=80, admin="ready", weight=1, down=True),
        ),
        (
            "its check switched off",
            row(check=2),
            RunningServer(host="10.0.0.1", port=80, admin="ready", weight=1, unchecked=True),
        ),
        (
            "its check paused by maintenance",
            row(op=0, admin=1, check=14),
            RunningServer(host="10.0.0.1", port=80, admin="maint", weight=1),
        ),
    ],
)
def test_a_server_is_read_as_it_runs(case: str, line: str, expected: RunningServer) -> None:
    assert parse_servers(HEAD + line) == {"b": {"s": expected}}, case


@pytest.mark.parametrize(
    ("case", "reply"),
    [
        ("nothing", ""),
        ("an error", "Permission denied\n"),
        ("no columns that are known", "1\n# a b c\n1 2 3\n"),
        ("cut off in the middle of a row", HEAD + row() + "3 b 2 t 10.0"),
    ],
)
def test_anything_else_is_no_answer(case: str, reply: str) -> None:
    assert parse_servers(reply) is None, case


def test_an_haproxy_without_servers_has_none() -> None:
    assert parse_servers(HEAD) == {}


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (Add(section="b", server="s", address="10.0.0.1:80"), "add server b/s 10.0.0.1:80"),
        (
            Add(section="b", server="s", address=":80", options=("check", "inter", "2s")),
            "add server b/s :80 check inter 2s",
        ),
        (
            Add(section="b", server="s", address=":80", options=("sni", "str(a b;c)")),
            r"add server b/s :80 sni str(a\ b\;c)",
        ),
        (EnableCheck(section="b", server="s"), "enable health b/s"),
        (EnableCheck(section="b", server="s", agent=True), "enable agent b/s"),
        (SetState(section="b", server="s", state="drain"), "set server b/s state drain"),
        (SetWeight(section="b", server="s", weight=0), "set server b/s weight 0"),
        (SetUp(section="b", server="s"), "set server b/s health up"),
        (SetAddress(section="b", server="s", host="::1", port=80), "set server b/s addr ::1 port 80"),
        (Remove(section="b", server="s"), "del server b/s"),
    ],
)
def test_a_command_is_one_line(command: Command, text: str) -> None:
    assert command.text() == text
