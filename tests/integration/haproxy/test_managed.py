"""What holds for an HAProxy that the daemon runs, and for no other."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from pathlib import Path

import pytest
from msgspec import structs

from orbitcontrol.errors import HAProxyError
from orbitcontrol.haproxy.proxy import HAProxy, HAProxySettings
from orbitcontrol.model.configuration import ProxyConfiguration
from support.haproxy import LoadBalancer, WebServer, answers, eventually, killed_and_back, serving
from support.haproxy_homes import DISTRIBUTION, NEWER, HAProxyHome, on

pytestmark = [pytest.mark.integration, on((True, DISTRIBUTION), (True, NEWER))]

Servers = tuple[WebServer, WebServer]
EMPTY = ProxyConfiguration(tag="lb", template="")


def working_directory(pid: int) -> Path:
    return Path(f"/proc/{pid}/cwd").readlink()


async def _gone(balancer: LoadBalancer) -> bool:
    try:
        await balancer.home.get()
    except OSError:
        return True
    return False


async def test_haproxy_lives_in_a_session_of_its_own_and_holds_no_directory(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    await serving(balancer, *web_servers)
    pid = (await balancer.home.processes()).master
    assert os.getsid(pid) == pid
    assert working_directory(pid) == Path("/")


async def test_a_haproxy_that_keeps_dying_is_started_with_pauses(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    await serving(balancer, *web_servers)
    moments = [time.monotonic()]
    for _ in range(3):
        await killed_and_back(balancer)
        moments.append(time.monotonic())
    first, second, third = (b - a for a, b in itertools.pairwise(moments))
    assert first < second < third
    assert second >= 1
    assert third >= 2


async def test_an_adopted_haproxy_is_watched_too(balancer: LoadBalancer, web_servers: Servers) -> None:
    generation = await serving(balancer, *web_servers)
    await balancer.restart()
    await balancer.judged(generation, accepted=True)
    await killed_and_back(balancer)


async def test_haproxy_is_started_from_disk_before_anything_is_known_of_the_store(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    await serving(balancer, *web_servers)
    await balancer.stop()
    balancer.home.end()
    balancer.board.desired.set(None)
    balancer.start()
    await eventually(lambda: answers(balancer), "HAProxy answers from its file")


async def test_an_haproxy_without_a_template_is_not_started_again_when_somebody_ends_it(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, one, two)
    balancer.import_template(None)
    assert "no tag of this machine carries haproxy.tpl" in await balancer.problem("template")
    await balancer.settled()
    os.kill((await balancer.home.processes()).master, signal.SIGTERM)
    await eventually(lambda: _gone(balancer), "it is gone")
    before = balancer.state.load()
    balancer.watch.publish("web", one.address)
    await asyncio.sleep(1)  # longer than the loop takes to act on an end or on a change
    assert await _gone(balancer)
    assert structs.replace(balancer.state.load(), orphans=()) == before
    generation = balancer.import_template(balancer.home.template)
    await balancer.judged(generation, accepted=True)
    await eventually(lambda: answers(balancer), "a template brings it back")


async def test_keywords_that_take_the_process_away_from_us_are_harmless(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    template = balancer.home.template.replace("global\n", "global\n    daemon\n    pidfile /nowhere/x\n", 1)
    balancer.watch.publish("web", web_servers[0].address)
    generation = balancer.import_template(template)
    balancer.start()
    await balancer.judged(generation, accepted=True)
    pid = int((balancer.home.directory / "haproxy.pid").read_text())
    assert (await balancer.home.processes()).master == pid


async def test_a_missing_program_is_named(haproxy_home: HAProxyHome) -> None:
    settings = HAProxySettings(config_dir=haproxy_home.directory, binary="no-such-haproxy", managed=True)
    proxy = HAProxy(settings)
    for asked in (proxy.check("global\n", EMPTY), proxy.apply("global\n", EMPTY)):
        with pytest.raises(HAProxyError, match=r"no-such-haproxy.*--haproxy-binary"):
            await asked
    await proxy.close()


async def test_a_master_that_hangs_is_not_started_a_second_time(
    haproxy_home: HAProxyHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbitcontrol.haproxy.master.ANSWER_DEADLINE", 0.5)
    proxy = haproxy_home.adapter()
    await proxy.apply(f"listen web\n    bind 127.0.0.1:{haproxy_home.port}\n", EMPTY)
    await proxy.close()
    pid = (await haproxy_home.processes()).master
    os.kill(pid, signal.SIGSTOP)
    try:
        again = haproxy_home.adapter()
        with pytest.raises(HAProxyError, match="no answer to 'show proc'"):
            await again.ensure(start=True)
        await again.close()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (await haproxy_home.processes()).master == pid
