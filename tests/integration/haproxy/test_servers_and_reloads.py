"""What only a reload brings about: once, bundled, written down; and what happens when nothing works."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from orbitcontrol.agent.remembered import Remembered
from orbitcontrol.haproxy.proxy import HAProxy, HAProxySettings
from orbitcontrol.model.state import Reload
from orbitcontrol.planning.proxy import ProxyState
from orbitcontrol.statedir import StateDirectory
from support.haproxy import LoadBalancer, an_endpoint, answers, eventually, killed_and_back, serving
from support.haproxy_homes import DISTRIBUTION, EVERY_HAPROXY, DistributionHome, HAProxyHome, http_get, on
from support.haproxy_servers import (
    BOTH_VERSIONS,
    Three,
    agreed,
    becomes,
    drained,
    looks_again,
    name,
    put,
    reloads_of,
    states,
    with_line,
)
from support.scarcity import no_space_left, small_disk

pytestmark = pytest.mark.integration

REFUSED = {
    "a static algorithm": ("balance static-rr", "{{ e.address }}", "dynamic load balancing"),
    "an option that no command may have": ("balance first", "{{ e.address }} non-stick", "not accepted"),
    "an address to be looked up": ("balance first", "localhost:{{ e.port }}", "is looked up only when"),
}


@BOTH_VERSIONS
@pytest.mark.parametrize("case", REFUSED)
async def test_what_haproxy_refuses_at_runtime_is_one_reload(
    balancer: LoadBalancer, three: Three, case: str
) -> None:
    one, two, third = three
    balance, line, words = REFUSED[case]
    with_line(balancer, line)
    balancer.home.template = balancer.home.template.replace("balance roundrobin", balance)
    await serving(balancer, one, two)
    counted = await reloads_of(balancer)
    put(balancer, one, two, third)
    await balancer.routes_to(*(each.address for each in three))
    await looks_again(balancer)
    await looks_again(balancer)
    (reason,) = counted.reasons
    assert words in reason
    assert counted.ledger[-1].outcome == "loaded"
    put(balancer, one, two)
    await balancer.routes_to(one.address, two.address)
    assert len(counted.reasons) == 1, "a server that goes needs none"


@BOTH_VERSIONS
async def test_cookies_of_servers_cost_a_reload_where_haproxy_is_too_old(
    balancer: LoadBalancer, three: Three, haproxy_binary: str
) -> None:
    one, two, third = three
    with_line(balancer, "{{ e.address }} cookie {{ e.name }}", "    cookie S insert\n")
    await serving(balancer, one)
    counted = await reloads_of(balancer)
    put(balancer, one, two, third)
    await agreed(balancer, one, two, third)
    await looks_again(balancer)
    old = haproxy_binary == "/usr/sbin/haproxy"
    assert ["'cookie' option is not accepted" in reason for reason in counted.reasons] == [True] * old


@on((False, DISTRIBUTION))
async def test_what_a_reload_does_not_bring_about_is_told_and_not_tried_again(
    balancer: LoadBalancer, three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HAProxy reads another file than the one that the daemon was told to write."""
    one, two, _ = three
    home = balancer.home
    assert isinstance(home, DistributionHome)
    settings = HAProxySettings(
        config_dir=home.directory / "elsewhere",
        binary=home.binary,
        socket=str(home.socket),
        reload_command=home.reload_command,
        master_socket=home.master.path,
    )
    monkeypatch.setattr(home, "adapter", lambda: HAProxy(settings))
    balancer.watch.publish("web", one.address)
    generation = balancer.import_template(home.template)
    balancer.start()
    await balancer.judged(generation, accepted=True)
    assert "No such backend" in await balancer.problem(
        "haproxy", "reloaded, and still not what its file says"
    )
    assert len(balancer.board.reloads.value) == 1
    put(balancer, two)
    assert await balancer.board.reloads.wait_for(lambda ledger: len(ledger) == 2, timeout=20)
    await balancer.problem("haproxy", f"web-{two.address}")
    assert len(balancer.board.reloads.value) == 2


@EVERY_HAPROXY
async def test_a_reload_does_not_bring_a_draining_server_back(balancer: LoadBalancer, three: Three) -> None:
    one, two, _ = three
    await serving(balancer, two)
    request = asyncio.create_task(http_get(balancer.home.port, "/slow"))
    await two.asked.wait()
    put(balancer, one, **drained(two))
    await becomes(balancer, two, "drain")
    changed = balancer.home.template.replace("retries 3", "retries 4")
    await balancer.judged(balancer.import_template(changed), accepted=True)
    assert name(two) not in await states(balancer)
    assert {await balancer.home.get() for _ in range(4)} == {"200 one"}
    two.go.set()
    assert await request == "200 two"
    await agreed(balancer, one)


async def test_reloads_are_bundled_and_written_down(balancer: LoadBalancer, three: Three) -> None:
    one, two, third = three
    await serving(balancer, one)
    counted = await reloads_of(balancer)
    for retries in range(4, 9):
        changed = balancer.home.template.replace("retries 3", f"retries {retries}")
        generation = balancer.import_template(changed)
        await asyncio.sleep(0.005)
    put(balancer, one, two, third)
    await balancer.judged(generation, accepted=True)
    await agreed(balancer, one, two, third)
    assert 1 <= len(counted.reasons) <= 2
    last = counted.ledger[-1]
    assert "template, certificates or files changed" in last.reason
    assert (last.outcome, last.size >= 1, 0 < last.seconds < 60) == ("loaded", True, True)
    assert last.at.endswith("Z")


async def test_a_refused_reload_is_in_the_ledger_that_keeps_the_newest_hundred(
    balancer: LoadBalancer, three: Three
) -> None:
    one, two, _ = three
    old = [
        Reload(at="2026-01-01T00:00:00.000Z", reason=f"{n}", size=1, seconds=1, outcome="loaded")
        for n in range(100)
    ]
    Remembered(balancer.files, "reloads.json", tuple[Reload, ...], ()).save(tuple(old))
    await serving(balancer, one)
    taken = two.address.rpartition(":")[2]
    bad = balancer.home.template.replace(
        "    default_backend", f"    bind 127.0.0.1:{taken}\n    default_backend"
    )
    await balancer.judged(balancer.import_template(bad), accepted=False)
    ledger = balancer.board.reloads.value
    assert [each.outcome for each in ledger[-2:]] == ["loaded", "refused"]
    assert ledger[:-2] == tuple(old[2:])
    await balancer.restart()
    assert await balancer.board.reloads.wait_for(lambda kept: kept == ledger, timeout=10)


async def test_without_a_runtime_socket_each_change_is_a_reload_and_that_is_told(
    balancer: LoadBalancer, three: Three
) -> None:
    one, two, _ = three
    balancer.home.template = balancer.home.template.replace("level admin", "level operator")
    await serving(balancer, one)
    counted = await reloads_of(balancer)
    put(balancer, one, two)
    await balancer.routes_to(one.address, two.address)
    put(balancer, two)
    await balancer.routes_to(two.address)
    assert await balancer.board.reloads.wait_for(lambda _: len(counted.reasons) == 2, timeout=20)
    assert all("there is no runtime socket" in reason for reason in counted.reasons)
    assert "each change is a reload" in await balancer.problem("template")


async def test_an_haproxy_that_is_down_is_not_given_a_file_that_keeps_it_down(
    balancer: LoadBalancer, three: Three
) -> None:
    one, two, _ = three
    with_line(balancer, "{{ e.address }} weight {{ e.attributes.weight | default(1) }}")
    await serving(balancer, one)
    await killed_and_back(balancer)
    os.kill((await balancer.home.processes()).master, signal.SIGKILL)  # it is started after a pause now
    await balancer.problem("haproxy", "does not run")
    put(balancer, one, **{two.address: an_endpoint(attributes={"weight": "257"})})
    assert "weight of server" in await balancer.problem("template", "257")
    await eventually(lambda: answers(balancer), "HAProxy serves again")
    await agreed(balancer, one)


async def test_a_template_with_carriage_returns_is_like_others(balancer: LoadBalancer, three: Three) -> None:
    one, two, _ = three
    balancer.home.template = balancer.home.template.replace("\n", "\r\n")
    await serving(balancer, one)
    counted = await reloads_of(balancer)
    put(balancer, one, two)
    await agreed(balancer, one, two)
    written = balancer.home.config.stat()
    await looks_again(balancer)
    assert balancer.home.config.stat() == written
    await counted.none()


async def test_an_haproxy_that_hangs_is_told_and_holds_up_nothing_for_good(
    balancer: LoadBalancer, three: Three
) -> None:
    one, two, _ = three
    await serving(balancer, one)
    (worker,) = (await balancer.home.processes()).workers
    os.kill(worker, signal.SIGSTOP)
    try:
        assert "did not answer" in await balancer.problem("haproxy", "haproxy.sock")
    finally:
        os.kill(worker, signal.SIGCONT)
    put(balancer, one, two)
    await agreed(balancer, one, two)
    assert await balancer.board.problems.cell.wait_for(lambda told: not told, timeout=20)


async def test_a_worker_that_hangs_is_replaced_when_its_servers_change(
    balancer: LoadBalancer, three: Three
) -> None:
    one, two, _ = three
    await serving(balancer, one)
    (worker,) = (await balancer.home.processes()).workers
    os.kill(worker, signal.SIGSTOP)
    try:
        put(balancer, two)
        told = balancer.board.reloads.wait_for(
            lambda ledger: "did not answer" in ledger[-1].reason, timeout=30
        )
        assert await told
        await agreed(balancer, two)
    finally:
        os.kill(worker, signal.SIGCONT)


@pytest.fixture
def on_small_disk(haproxy_home: HAProxyHome) -> Iterator[HAProxyHome]:
    """HAProxy's files and the daemon's state, on a disk of a megabyte."""
    with small_disk(haproxy_home.directory):
        yield haproxy_home
        haproxy_home.end()


@pytest.mark.parametrize("state_too", [True, False], ids=["state too", "HAProxy's files alone"])
async def test_a_full_disk_keeps_no_dead_server_in_rotation(
    on_small_disk: HAProxyHome,
    balancer: LoadBalancer,
    three: Three,
    tmp_path: Path,
    *,
    state_too: bool,
) -> None:
    one, two, third = three
    if not state_too:
        balancer.files = StateDirectory(tmp_path)
        balancer.state = Remembered(balancer.files, "haproxy.json", ProxyState, ProxyState())
    await serving(balancer, one, two)
    with no_space_left(on_small_disk.directory):
        before = on_small_disk.config.read_text()
        counted = await reloads_of(balancer)
        put(balancer, one, third)
        await becomes(balancer, two, "maint")
        told = await balancer.problem("haproxy", "No space left")
        assert told.startswith(str(on_small_disk.directory))
        assert ".check" not in told, "a reload was tried, in vain"
        await becomes(balancer, third, "ready")
        put(balancer, third)
        await becomes(balancer, one, "maint")
        assert on_small_disk.config.read_text() == before
    await agreed(balancer, third)
    await balancer.settled()
    assert await balancer.board.problems.cell.wait_for(lambda told: not told, timeout=20)
    await counted.none()
