"""Which commands make the running servers those of a text, and when only a reload does."""

from __future__ import annotations

from typing import Literal

import pytest
from msgspec import structs

from orbitcontrol.codec.haproxy_lines import Server
from orbitcontrol.codec.haproxy_runtime import Command, RunningServer
from orbitcontrol.codec.haproxy_text import Layout, layout
from orbitcontrol.planning.servers import (
    KEPT,
    LONGEST_DRAIN,
    Departures,
    Leaving,
    NeedsReload,
    Place,
    ServerPlan,
    plan_servers,
)
from support.haproxy_model import Servers, loads

S = Place("b", "s")


def text(*servers: str, rest: str = "balance roundrobin") -> Layout:
    lines = "".join(f"  server {server}\n" for server in servers)
    return layout(f"backend b\n  {rest}\n{lines}")


def plan(
    wanted: Layout,
    disk: Layout,
    running: Servers | None = None,
    departures: Departures = Departures(),  # noqa: B008 -- frozen
    *,
    now: float = 100.0,
    added: dict[Place, Server] | None = None,
) -> ServerPlan | NeedsReload:
    return plan_servers(
        wanted=wanted,
        disk=disk,
        running=loads(disk) if running is None else running,
        departures=departures,
        now=now,
        added=added or {},
    )


def said(commands: tuple[Command, ...]) -> list[str]:
    return [command.text() for command in commands]


def batch(found: ServerPlan | NeedsReload) -> tuple[list[str], list[str]]:
    assert isinstance(found, ServerPlan), found
    return said(found.first), said(found.then)


@pytest.mark.parametrize(
    ("case", "line", "commands"),
    [
        ("plain", "t 10.0.0.1:80", ["add server b/t 10.0.0.1:80", "set server b/t state ready"]),
        (
            "with a check",
            "t 10.0.0.1:80 check inter 2s",
            [
                "add server b/t 10.0.0.1:80 check inter 2s",
                "enable health b/t",
                "set server b/t state ready",
            ],
        ),
        (
            "with an agent, for whose first word it does not wait",
            "t 10.0.0.1:80 agent-check agent-port 9",
            [
                "add server b/t 10.0.0.1:80 agent-check agent-port 9",
                "enable agent b/t",
                "set server b/t state ready",
                "set server b/t health up",
            ],
        ),
        ("disabled", "t 10.0.0.1:80 disabled", ["add server b/t 10.0.0.1:80 disabled"]),
    ],
)
def test_a_new_server_is_added_before_the_file_is_written(case: str, line: str, commands: list[str]) -> None:
    assert batch(plan(text("s 10.0.0.1:80", line), text("s 10.0.0.1:80"))) == (commands, []), case


def running(**changes: object) -> Servers:
    ready = RunningServer(host="10.0.0.1", port=80, admin="ready", weight=1)
    return {"b": {"s": structs.replace(ready, **changes)}}


@pytest.mark.parametrize(
    ("case", "line", "changes", "commands"),
    [
        ("nothing", "", {}, []),
        ("its weight, by the text", "weight 5", {}, ["set server b/s weight 5"]),
        ("its weight, by hand", "", {"weight": 5}, ["set server b/s weight 1"]),
        ("drained by hand", "", {"admin": "drain"}, ["set server b/s state ready"]),
        ("in maintenance by hand", "", {"admin": "maint"}, ["set server b/s state ready"]),
        ("ready although disabled", "disabled", {}, ["set server b/s state maint"]),
        ("its address", "", {"host": "10.0.0.9"}, ["set server b/s addr 10.0.0.1 port 80"]),
        ("its port", "", {"port": 81}, ["set server b/s addr 10.0.0.1 port 80"]),
        ("said to be down", "", {"down": True}, ["set server b/s health up"]),
        ("its check switched off", "check", {"unchecked": True}, ["enable health b/s"]),
        ("found down by its check", "check", {"down": True}, []),
        ("weighed by its agent", "agent-check agent-port 9", {"weight": 0}, []),
        ("drained by its agent", "agent-check agent-port 9", {"admin": "drain"}, []),
        ("another weight for one with an agent", "weight 5 agent-check agent-port 9", {}, []),
        ("drained by hand, and following another", "track x/y", {"admin": "drain"},
         ["set server b/s state ready"]),
    ],
)  # fmt: skip
def test_a_server_that_runs_becomes_what_its_line_says(
    case: str, line: str, changes: dict[str, object], commands: list[str]
) -> None:
    wanted = text(f"s 10.0.0.1:80 {line}")
    assert batch(plan(wanted, wanted, running(**changes))) == (commands, []), case


def test_the_text_may_change_the_weight_of_a_server_with_an_agent() -> None:
    agent = "s 10.0.0.1:80 agent-check agent-port 9 weight"
    changes = plan(text(f"{agent} 5"), text(f"{agent} 9"), running(weight=2))
    assert batch(changes) == (["set server b/s weight 5"], [])


@pytest.mark.parametrize(
    ("case", "wanted", "disk", "reason"),
    [
        ("an option", text("s 10.0.0.1:80 backup"), text("s 10.0.0.1:80"), "the line of server b/s changed"),
        ("an address", text("s 10.0.0.1:81"), text("s 10.0.0.1:80"), "the line of server b/s changed"),
        ("a number", text("s 10.0.0.1:80 id 5"), text("s 10.0.0.1:80 id 6"),
         "the line of server b/s changed"),
        ("the rest", text("s 10.0.0.1:80"), text("s 10.0.0.1:80", rest="balance first"),
         "more than its servers changed"),
        ("a name to be looked up", text("s example.com:80"), text(),
         "cannot be added at runtime: example.com:80 is looked up only when HAProxy starts"),
        ("options that no command holds", text("s 10.0.0.1:80" + " backup" * 61), text(), "too many options"),
    ],
)  # fmt: skip
def test_what_no_command_can_do_needs_a_reload(case: str, wanted: Layout, disk: Layout, reason: str) -> None:
    found = plan(wanted, disk)
    assert isinstance(found, NeedsReload), case
    assert reason in found.reason


def test_dead_servers_do_not_wait_for_a_reload() -> None:
    found = plan(text("s 10.0.0.1:80 backup"), text("s 10.0.0.1:80", "t 10.0.0.1:81"))
    assert isinstance(found, NeedsReload)
    assert said(found.first) == ["set server b/t state maint"]


def test_a_server_that_runs_in_an_unknown_way_needs_a_reload() -> None:
    found = plan(text("s 10.0.0.1:80"), text(), running())
    assert isinstance(found, NeedsReload)
    assert "runs already, with options that are not known" in found.reason


def test_a_server_that_was_added_and_not_written_is_known() -> None:
    wanted = text("s 10.0.0.1:80")
    added = {S: wanted.sections["b"].servers["s"]}
    assert batch(plan(wanted, text(), running(weight=3), added=added)) == (["set server b/s weight 1"], [])
    gone = plan(text(), text(), running(), added=added)
    assert isinstance(gone, ServerPlan)
    assert gone.leaving[S].line == added[S]


def leaving(departure: Departures, *, rest: str = "balance roundrobin", **changes: object) -> ServerPlan:
    """What becomes of a server ``s`` that the text does not have any more."""
    there = text("s 10.0.0.1:80", rest=rest)
    found = plan(text(rest=rest), there, running(**changes), departure)
    assert isinstance(found, ServerPlan)
    return found


LINE = text("s 10.0.0.1:80").sections["b"].servers["s"]
BY_ADDRESS, BY_NAME = Departures(draining={"10.0.0.1:80"}), Departures(draining={"s"})


MAINT, DRAIN = "set server b/s state maint", "set server b/s state drain"


@pytest.mark.parametrize(
    ("case", "departures", "rest", "state"),
    [
        ("dead", Departures(), "mode http", "maint"),
        ("drained, known by its address", BY_ADDRESS, "mode http", "drain"),
        ("drained, known by its name", BY_NAME, "mode http", "drain"),
        ("bound by a cookie", BY_NAME, "cookie S insert", "maint"),
        ("bound by a table", BY_NAME, "stick on src", "maint"),
        ("bound by RDP", BY_NAME, "persist rdp-cookie", "maint"),
        ("chosen by the request", BY_NAME, "use-server %[url] if TRUE", "maint"),
    ],
)
def test_a_server_goes_out_in_the_way_that_its_endpoint_and_section_ask_for(
    case: str, departures: Departures, rest: str, state: Literal["drain", "maint"]
) -> None:
    found = leaving(departures, rest=rest)
    assert (said(found.first), said(found.then)) == (([MAINT], []) if state == "maint" else ([], [DRAIN])), (
        case
    )
    assert found.leaving == {S: Leaving(line=LINE, state=state, since=100.0)}


def known(
    state: Literal["drain", "maint"], since: float, *, draining: bool = True, idle: bool = False
) -> Departures:
    return Departures(
        leaving={S: Leaving(line=LINE, state=state, since=since)},
        draining={"s"} if draining else (),
        idle={S} if idle else (),
    )


@pytest.mark.parametrize(
    ("case", "departures", "admin", "commands", "after"),
    [
        ("it has sessions", known("drain", 90), "drain", [], ("drain", 90)),
        ("somebody made it ready", known("drain", 90), "ready", [DRAIN], ("drain", 90)),
        ("its sessions have ended", known("drain", 90, idle=True), "drain", [MAINT], ("maint", 100)),
        ("its endpoint is gone", known("drain", 90, draining=False), "drain", [MAINT], ("maint", 100)),
        ("it drains for too long", known("drain", 100 - LONGEST_DRAIN), "drain", [MAINT], ("maint", 100)),
        ("it rests", known("maint", 101 - KEPT), "maint", [], ("maint", 101 - KEPT)),
        ("it has rested", known("maint", 100 - KEPT), "maint", ["del server b/s"], ("maint", 100 - KEPT)),
        ("somebody woke it up", known("maint", 90), "ready", [MAINT], ("maint", 90)),
    ],
)
def test_a_server_on_its_way_out_goes_on(
    case: str, departures: Departures, admin: str, commands: list[str], after: tuple[str, float]
) -> None:
    found = leaving(departures, admin=admin)
    assert said((*found.first, *found.then)) == commands, case
    assert (found.leaving[S].state, found.leaving[S].since) == after


@pytest.mark.parametrize(
    ("case", "line", "changes", "commands"),
    [
        ("drained", "s 10.0.0.1:80", {"admin": "drain"}, ["set server b/s state ready"]),
        ("in maintenance", "s 10.0.0.1:80", {"admin": "maint"}, ["set server b/s state ready"]),
        ("with another weight", "s 10.0.0.1:80 weight 4", {"admin": "maint"},
         ["set server b/s weight 4", "set server b/s state ready"]),
    ],
)  # fmt: skip
def test_a_server_that_returns_is_taken_back(
    case: str, line: str, changes: dict[str, object], commands: list[str]
) -> None:
    found = plan(text(line), text(), running(**changes), known("maint", 90))
    assert batch(found) == (commands, []), case
    assert isinstance(found, ServerPlan)
    assert found.leaving == {}


def test_one_with_an_agent_that_returns_is_taken_back_whatever_the_agent_said() -> None:
    agent = "s 10.0.0.1:80 agent-check agent-port 9"
    line = text(agent).sections["b"].servers["s"]
    gone = Departures(leaving={S: Leaving(line=line, state="maint", since=90)})
    found = plan(text(agent), text(), running(admin="maint"), gone)
    assert batch(found) == (["set server b/s state ready", "set server b/s health up"], [])


def test_one_that_returns_with_another_line_needs_a_reload() -> None:
    found = plan(text("s 10.0.0.1:80 backup"), text(), running(admin="maint"), known("maint", 90))
    assert isinstance(found, NeedsReload)


@pytest.mark.parametrize(
    ("case", "rest", "name"),
    [
        ("its author's", "mode http", "nocheck-s"),
        ("of a template", "server-template s 3 10.0.0.1:80", "s2"),
        ("referred to", "use-server other if TRUE\n  server other 10.0.0.9:80", "other"),
        ("in a section that only HAProxy knows", 'server "$N" 10.0.0.9:80', "anything"),
    ],
)
def test_what_is_not_ours_is_left_as_it_is(case: str, rest: str, name: str) -> None:
    wanted = text(rest=rest)
    there = {"b": {name: RunningServer(host="10.0.0.1", port=80, admin="drain", weight=9)}}
    assert batch(plan(wanted, wanted, there)) == ([], []), case


def test_what_somebody_added_by_hand_goes_out() -> None:
    assert batch(plan(text(), text(), running())) == (["set server b/s state maint"], [])


def test_sections_that_the_text_does_not_have_are_haproxys_own() -> None:
    inner: Servers = {"<HTTPCLIENT>": {"<HTTPSCLIENT>": running()["b"]["s"]}}
    assert batch(plan(text(), text(), inner)) == ([], [])


def test_a_batch_takes_servers_out_first_and_drains_others_last() -> None:
    wanted, disk = (
        text("new 10.0.0.1:83", "kept 10.0.0.1:82 weight 3"),
        text("s 10.0.0.1:80", "t 10.0.0.1:81", "kept 10.0.0.1:82"),
    )
    found = plan(wanted, disk, None, Departures(draining={"t"}))
    assert batch(found) == (
        [
            "set server b/s state maint",
            "add server b/new 10.0.0.1:83",
            "set server b/new state ready",
            "set server b/kept weight 3",
        ],
        ["set server b/t state drain"],
    )
