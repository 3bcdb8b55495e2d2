"""Laws of the plans that change HAProxy's servers at runtime, whatever the texts and servers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from orbitcontrol.codec.haproxy_lines import Server
from orbitcontrol.codec.haproxy_lines import server as parsed
from orbitcontrol.codec.haproxy_runtime import Add, RunningServer
from orbitcontrol.codec.haproxy_text import Layout, layout
from orbitcontrol.planning.server_ids import numbered
from orbitcontrol.planning.servers import (
    KEPT,
    Departures,
    NeedsReload,
    Place,
    ServerPlan,
    plan_servers,
)
from support.haproxy_model import Servers, does, loads

NAMES = [f"s{number}" for number in range(5)]
HEAD = """\
global
    stats socket /x level admin
backend plain
    use-server kept if TRUE
    server kept 10.9.0.1:80
    server nocheck-x 10.9.0.2:80
{plain}
backend bound
    cookie S insert
{bound}
listen hashed
    balance source
    hash-type consistent
    default-server check inter 2s
{hashed}
"""


@st.composite
def server_lines(draw: st.DrawFn) -> str:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    lines = []
    for name in names:
        weight = draw(st.sampled_from(["", " weight 5", " weight 0", " disabled"]))
        lines.append(f"    server {name} 10.0.0.1:{8000 + NAMES.index(name)}{weight}")
    return "\n".join(lines)


texts = st.builds(HEAD.format, plain=server_lines(), bound=server_lines(), hashed=server_lines())
NONE = Departures()

draining = st.frozensets(st.sampled_from(NAMES))
pauses = st.integers(min_value=0, max_value=200)


def plan(
    wanted: Layout, disk: Layout, running: Servers, departures: Departures = NONE, now: float = 0.0
) -> ServerPlan:
    made = plan_servers(wanted=wanted, disk=disk, running=running, departures=departures, now=now)
    assert isinstance(made, ServerPlan), made
    return made


def is_what_the_text_says(running: Servers, wanted: Layout, made: ServerPlan) -> None:
    """The servers that get connections are those of the text, with its weights and addresses."""
    fresh = loads(wanted)
    for name in wanted.sections:
        leaving = {place.server for place in made.leaving if place.section == name}
        now = {key: each for key, each in running.get(name, {}).items() if key not in leaving}
        assert now == fresh.get(name, {})
        assert all(running[name][key].admin != "ready" for key in leaving if key in running.get(name, {}))


@given(texts, texts, draining)
def test_applying_a_plan_gives_the_wanted_servers_and_nothing_more_to_plan(
    before: str, after: str, drains: frozenset[str]
) -> None:
    disk, wanted = numbered_layout(before), numbered_layout(after, before)
    if differs(disk, wanted):
        assert isinstance(
            plan_servers(wanted=wanted, disk=disk, running=loads(disk), departures=Departures(), now=0.0),
            NeedsReload,
        )
        return
    made = plan(wanted, disk, loads(disk), Departures(draining=drains))
    running = does(does(loads(disk), made.first), made.then)
    is_what_the_text_says(running, wanted, made)
    again = plan(wanted, wanted, running, Departures(leaving=made.leaving, draining=drains))
    assert (again.first, again.then, again.leaving) == ((), (), made.leaving)


def numbered_layout(text: str, before: str | None = None) -> Layout:
    return numbered(text, before=layout(numbered(before, before=None)[0]) if before else None)[1]


def differs(disk: Layout, wanted: Layout) -> bool:
    """True where a server that both texts have changed in more than its weight."""
    return any(
        section.servers[name].without_weight() != wanted.sections[key].servers[name].without_weight()
        for key, section in disk.sections.items()
        for name in section.servers.keys() & wanted.sections[key].servers.keys()
    )


@given(texts, texts, st.data())
def test_a_crash_in_the_middle_of_a_batch_is_made_good(before: str, after: str, data: st.DataObject) -> None:
    """HAProxy, or the daemon, ends after some commands: the next plan gives the wanted servers."""
    disk, wanted = numbered_layout(before), numbered_layout(after, before)
    if differs(disk, wanted):
        return
    made = plan(wanted, disk, loads(disk))
    commands = made.first + made.then
    done = data.draw(st.integers(0, len(commands)))
    is_written = done >= len(made.first)
    file = wanted if is_written and data.draw(st.booleans()) else disk
    if done > len(made.first):
        file = wanted
    if data.draw(st.booleans(), label="HAProxy ends"):
        running = loads(file)
    else:
        running = does(loads(disk), commands[:done])
    next_plan = plan_servers(wanted=wanted, disk=file, running=running, departures=Departures(), now=0.0)
    if isinstance(next_plan, NeedsReload):  # a server that the file does not have runs already
        assert file is disk
        return
    is_what_the_text_says(does(does(running, next_plan.first), next_plan.then), wanted, next_plan)


@given(texts, st.sampled_from(["plain", "bound", "hashed"]), st.data())
def test_what_somebody_else_changes_is_put_right(text: str, section: str, data: st.DataObject) -> None:
    wanted = numbered_layout(text)
    ours = wanted.sections[section].servers
    if not ours:
        return
    running = loads(wanted)
    name = data.draw(st.sampled_from(sorted(ours)))
    change: dict[str, object] = data.draw(
        st.sampled_from(
            [{"admin": "drain"}, {"admin": "maint"}, {"weight": 9}, {"host": "10.7.7.7"}, {"port": 1}, {}]
        )
    )
    if change:
        running[section][name] = structs.replace(running[section][name], **change)
    else:
        del running[section][name]
    made = plan(wanted, wanted, running)
    is_what_the_text_says(does(does(running, made.first), made.then), wanted, made)


@given(texts, texts, pauses, draining)
def test_what_left_is_removed_in_time_and_only_from_maintenance(
    before: str, after: str, pause: int, drains: frozenset[str]
) -> None:
    disk, wanted = numbered_layout(before), numbered_layout(after, before)
    if differs(disk, wanted):
        return
    made = plan(wanted, disk, loads(disk), Departures(draining=drains))
    running = does(does(loads(disk), made.first), made.then)
    later = plan(
        wanted,
        wanted,
        running,
        Departures(leaving=made.leaving, draining=drains, idle=list(made.leaving)),
        now=pause,
    )
    running = does(does(running, later.first), later.then)
    after_that = plan(wanted, wanted, running, Departures(leaving=later.leaving), now=pause + KEPT)
    assert after_that.first == ()
    left = {
        Place(name, server)
        for name, entries in does(running, after_that.then).items()
        for server in entries
        if wanted.sections[name].is_ours(server) and server not in wanted.sections[name].servers
    }
    assert left == set()


@given(texts, texts, draining)
def test_a_server_that_is_wanted_again_is_taken_back(before: str, after: str, drains: frozenset[str]) -> None:
    disk, wanted = numbered_layout(before), numbered_layout(after, before)
    if differs(disk, wanted):
        return
    made = plan(wanted, disk, loads(disk), Departures(draining=drains))
    running = does(does(loads(disk), made.first), made.then)
    back = plan(disk, wanted, running, Departures(leaving=made.leaving))
    is_what_the_text_says(does(does(running, back.first), back.then), disk, back)
    added = {Place(each.section, each.server) for each in back.first if isinstance(each, Add)}
    assert not added & made.leaving.keys()


@given(texts)
def test_what_is_not_ours_is_never_touched(text: str) -> None:
    wanted = numbered_layout(text)
    running = loads(wanted)
    running["plain"]["nocheck-mine"] = RunningServer(host="10.8.0.1", port=1, admin="ready", weight=3)
    running["plain"]["kept"] = structs.replace(running["plain"]["kept"], admin="drain")
    made = plan(wanted, wanted, running)
    assert (made.first, made.then) == ((), ())


@given(texts, texts)
def test_numbers_stay_with_their_servers(before: str, after: str) -> None:
    first, text = numbered(before, before=None)[1], numbered_layout(after, before)
    for name, server in text.sections["hashed"].servers.items():
        assert server.id
        if name in first.sections["hashed"].servers:
            assert server.id == first.sections["hashed"].servers[name].id
    ids = [server.id for server in text.sections["hashed"].servers.values()]
    assert len(set(ids)) == len(ids)


@given(texts)
def test_a_numbered_text_parses_to_the_same_servers(text: str) -> None:
    made, read = numbered(text, before=None)
    assert numbered(made, before=read) == (made, read)
    plain = layout(text)
    for name, section in read.sections.items():
        assert {key: bare(each) for key, each in section.servers.items()} == {
            key: bare(each) for key, each in plain.sections[name].servers.items()
        }


def bare(server: Server) -> Server:
    """The server without its number."""
    options = list(server.options)
    if server.id:
        index = options.index("id")
        del options[index : index + 2]
    return parsed(server.name, server.address, tuple(options))
