"""The model of HAProxy that the laws rely on does what the real one does; what it refuses is understood."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator

import pytest

from orbitcontrol.codec.haproxy_runtime import (
    Add,
    Command,
    EnableCheck,
    Remove,
    SetAddress,
    SetState,
    SetUp,
    SetWeight,
)
from orbitcontrol.codec.haproxy_text import layout
from orbitcontrol.haproxy.runtime import RuntimeSocket
from support.haproxy_homes import DISTRIBUTION, NEWER, HAProxyHome, on
from support.haproxy_model import Servers, does, loads

pytestmark = [pytest.mark.integration, on((True, DISTRIBUTION), (True, NEWER))]

TEXT = """\
global
    stats socket @SOCKET@ mode 600 level admin
defaults
    mode http
    timeout connect 2s
    timeout client 5s
    timeout server 5s
frontend plain
    bind 127.0.0.1:@PORT@
    default_backend plain
backend plain
    balance roundrobin
    server s0 127.0.0.1:1 weight 5
    server s1 127.0.0.2 disabled
    server 's2' [::1]:2 check inter 1h addr 127.0.0.1 port @PORT@
    server nocheck-s 127.0.0.3:3
    server s3 :3
    server s4 *:4
listen hashed
    balance source
    hash-type consistent
    default-server weight 3 disabled
    server s0 127.0.0.1:1 id 77
    server s1 ::1:9 enabled weight 0
backend static
    balance static-rr
    server s0 127.0.0.1:1
"""
NAMES = [f"s{number}" for number in range(5)]
CHECK = "check inter 1h addr 127.0.0.1 port"
OPTIONS = ["", "weight 0", "weight 256", "backup", CHECK, "maxconn 9 weight 7", "disabled"]
COMMANDS = 150


@pytest.fixture
async def runtime(haproxy_home: HAProxyHome) -> AsyncIterator[RuntimeSocket]:
    """A HAProxy that runs the text."""
    home = haproxy_home
    text = TEXT.replace("@SOCKET@", str(home.socket)).replace("@PORT@", str(home.port))
    home.config.write_text(text)
    adapter = home.adapter()
    await adapter.ensure(start=True)
    yield RuntimeSocket(str(home.socket))
    await adapter.close()


def chosen(dice: random.Random, servers: Servers, port: int) -> Command:
    """Something that can be done to one of these servers, or with one more. ``port`` passes every check."""
    section = dice.choice(["plain", "hashed"])
    name = dice.choice(NAMES)
    server = servers[section].get(name)
    if server is None:
        address = f"127.0.0.{dice.randint(1, 9)}:{dice.randint(1, 9)}"
        options = dice.choice(OPTIONS).replace(CHECK, f"{CHECK} {port}")
        return Add(section=section, server=name, address=address, options=tuple(options.split()))
    host, port = dice.choice(["127.0.0.7", "::1"]), dice.randint(1, 9)
    possible: list[Command] = [
        SetState(section=section, server=name, state=dice.choice(["ready", "drain", "maint"])),
        SetWeight(section=section, server=name, weight=dice.randint(0, 256)),
        SetAddress(section=section, server=name, host=host, port=port),
    ]
    if server.unchecked:
        possible.append(EnableCheck(section=section, server=name))
    if server.admin == "ready":
        possible.append(SetUp(section=section, server=name))
    if server.admin == "maint":
        possible += [Remove(section=section, server=name)] * 2
    return dice.choice(possible)


def sequence(seed: int, servers: Servers, port: int) -> Iterator[tuple[Command, Servers]]:
    """Commands, and the model's servers after each."""
    dice = random.Random(seed)
    for _ in range(COMMANDS):
        command = chosen(dice, servers, port)
        servers = {"plain": {}, "hashed": {}, **does(servers, (command,))}
        yield command, servers


@pytest.mark.parametrize("seed", range(5))
async def test_the_model_does_what_haproxy_does(
    runtime: RuntimeSocket, haproxy_home: HAProxyHome, seed: int
) -> None:
    servers = loads(layout(haproxy_home.config.read_text()))
    assert await runtime.servers() == servers
    for number, (command, expected) in enumerate(sequence(seed, servers, haproxy_home.port)):
        assert await runtime.execute([command]) == [], f"seed {seed}, {number}: {command.text()}"
        now = {"plain": {}, "hashed": {}, **await runtime.servers()}
        assert now == expected, f"seed {seed}, {number}: {command.text()}"


def new(*options: str, section: str = "plain", server: str = "new") -> Add:
    return Add(section=section, server=server, address="127.0.0.1:1", options=options)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (new(server="s0"), "Already exists a server with the same name"),
        (new(server="a/b"), "is not permitted in server name"),
        (new(section="none"), "No such backend"),
        (new(section="static"), "must use a dynamic load balancing"),
        (new("id", "77", section="hashed"), "custom id 77 already used"),
        (new("nonsense"), "unknown keyword 'nonsense'"),
        (new("resolvers", "r"), "not accepted for dynamic"),
        (new("weight", "257"), "not within 0 and 256"),
        (new("ssl"), "no CA file specified"),
        (EnableCheck(section="plain", server="s0"), "Health check was not configured"),
        (EnableCheck(section="plain", server="s0", agent=True), "Agent was not configured"),
        (EnableCheck(section="plain", server="none"), "No such server"),
        (SetState(section="plain", server="none", state="maint"), "No such server"),
        (SetWeight(section="static", server="s0", weight=5), "static LB algorithm"),
        (SetWeight(section="plain", server="s0", weight=257), "between 0 and 256"),
        (SetWeight(section="plain", server="none", weight=5), "No such server"),
        (SetAddress(section="plain", server="s0", host="example", port=1), "Invalid addr"),
        (SetAddress(section="plain", server="none", host="::1", port=1), "No such server"),
        (SetUp(section="plain", server="none"), "No such server"),
        (Remove(section="plain", server="s0"), "Only servers in maintenance mode can be deleted"),
        (Remove(section="plain", server="none"), "No such server"),
    ],
    ids=lambda value: value.text() if isinstance(value, Command) else "",
)
async def test_what_haproxy_refuses_is_known_for_a_refusal(
    runtime: RuntimeSocket, command: Command, words: str
) -> None:
    before = await runtime.servers()
    (refusal,) = await runtime.execute([command])
    assert refusal.startswith(f"{command.where}: ")
    assert words in refusal
    assert await runtime.servers() == before


async def test_cookies_of_servers_are_refused_by_old_versions_alone(
    runtime: RuntimeSocket, haproxy_binary: str
) -> None:
    refused = await runtime.execute([new("cookie", "c")])
    assert bool(refused) is (haproxy_binary == "/usr/sbin/haproxy")


async def test_what_haproxy_has_nothing_against_is_no_refusal(runtime: RuntimeSocket) -> None:
    commands = [
        SetAddress(section="plain", server="s0", host="127.0.0.1", port=1),
        SetAddress(section="plain", server="s0", host="127.0.0.1", port=2),
        SetState(section="plain", server="s0", state="maint"),
        SetState(section="plain", server="s0", state="maint"),
    ]
    assert await runtime.execute(commands) == []


async def test_a_refusal_in_the_middle_stops_nothing_behind_it(runtime: RuntimeSocket) -> None:
    commands: list[Command] = [SetState(section="plain", server="none", state="maint")]
    commands += [new(server=f"n{number}") for number in range(300)]
    assert len(await runtime.execute(commands)) == 1
    assert len((await runtime.servers())["plain"]) == 306
