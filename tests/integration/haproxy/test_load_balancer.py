"""The proxy loop on a real HAProxy: what a load balancer's users and operators see."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from pathlib import Path

import pytest
from msgspec import structs

from orbitcontrol.haproxy.proxy import HAProxy, HAProxySettings
from orbitcontrol.model.state import Alive
from support.haproxy import LoadBalancer, WebServer, an_endpoint, eventually

pytestmark = pytest.mark.integration

Servers = tuple[WebServer, WebServer]


async def serving(balancer: LoadBalancer, *servers: WebServer) -> int:
    """A load balancer in service with these servers; the generation of its template."""
    balancer.watch.publish("web", *(server.address for server in servers))
    generation = balancer.import_template(balancer.home.template)
    balancer.start()
    await balancer.judged(generation, accepted=True)
    await balancer.routes_to(*(server.address for server in servers))
    return generation


async def killed_and_back(balancer: LoadBalancer) -> None:
    """Kills HAProxy and waits until another one serves."""
    before = await balancer.home.processes()
    os.kill(before.master, signal.SIGKILL)

    async def back() -> bool:
        return (await balancer.home.processes()).master != before.master and await _answers(balancer)

    await eventually(back, "another HAProxy serves")


async def test_haproxy_is_started_and_answers_from_every_endpoint(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    await serving(balancer, *web_servers)
    assert {await balancer.home.get() for _ in range(4)} == {"200 one", "200 two"}


def working_directory(pid: int) -> Path:
    return Path(f"/proc/{pid}/cwd").readlink()


async def test_haproxy_lives_in_a_session_of_its_own_and_holds_no_directory(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    await serving(balancer, *web_servers)
    pid = (await balancer.home.processes()).master
    assert os.getsid(pid) == pid
    assert working_directory(pid) == Path("/")


async def test_nothing_is_rendered_before_the_endpoints_are_listed(balancer: LoadBalancer) -> None:
    balancer.import_template(balancer.home.template)
    balancer.start()
    assert await balancer.watch.followed.wait_for(lambda services: "web" in services, timeout=10)
    assert not balancer.home.config.exists()
    balancer.watch.publish("web")
    await balancer.routes_to()


async def test_an_endpoint_that_comes_is_routed_to_and_one_withdrawn_is_not(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, one)
    balancer.watch.alive.set({"10.0.0.1": Alive(session="s1", registered=True)})
    balancer.watch.publish("web", one.address, two.address)
    await balancer.routes_to(one.address, two.address)
    balancer.watch.publish("web", two.address)
    await balancer.routes_to(two.address)


async def test_an_endpoint_whose_machine_is_gone_stays(balancer: LoadBalancer, web_servers: Servers) -> None:
    one, two = web_servers
    await serving(balancer, one, two)
    balancer.watch.alive.set({})
    balancer.watch.publish("web", two.address)
    assert "in rotation" in await balancer.problem(f"endpoint web {one.address}")
    await balancer.routes_to(one.address, two.address)


async def test_an_absence_that_cannot_be_confirmed_is_no_withdrawal(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, one, two)
    balancer.watch.unreachable = True
    balancer.watch.alive.set({"10.0.0.1": Alive(session="s1", registered=True)})
    balancer.watch.publish("web", two.address)
    await balancer.problem(f"endpoint web {one.address}")
    await balancer.routes_to(one.address, two.address)


async def test_a_value_that_nobody_can_read_leaves_its_server_alone(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, one, two)
    balancer.watch.endpoints.set({"web": {one.address: None, two.address: an_endpoint()}})
    assert "cannot be read" in await balancer.problem(f"endpoint web {one.address}")
    await balancer.routes_to(one.address, two.address)


async def test_a_killed_haproxy_is_back_with_the_same_servers(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    await serving(balancer, *web_servers)
    await killed_and_back(balancer)
    assert (await balancer.home.processes()).reloads == 0
    await balancer.routes_to(*(server.address for server in web_servers))


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


async def test_a_generation_is_not_accepted_while_haproxy_cannot_run(
    balancer: LoadBalancer, web_servers: Servers, haproxy_binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = balancer.home.directory / "haproxy"
    program.symlink_to(haproxy_binary)
    settings = HAProxySettings(config_dir=balancer.home.directory, binary=str(program), managed=True)
    monkeypatch.setattr(balancer.home, "adapter", lambda: HAProxy(settings))
    await serving(balancer, *web_servers)
    program.unlink()
    os.kill((await balancer.home.processes()).master, signal.SIGKILL)
    await balancer.problem("haproxy")
    generation = balancer.import_template(balancer.home.template)
    verdict = balancer.board.proxy_verdict
    assert not await verdict.wait_for(lambda one: one is not None and one.generation == generation, timeout=2)
    program.symlink_to(haproxy_binary)
    await balancer.judged(generation, accepted=True)


async def _gone(balancer: LoadBalancer) -> bool:
    try:
        await balancer.home.get()
    except OSError:
        return True
    return False


async def _answers(balancer: LoadBalancer) -> bool:
    return (await balancer.home.get()).startswith("200")


async def test_a_haproxy_that_ends_in_the_middle_of_a_reload_is_back_with_the_new_servers(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    generation = await serving(balancer, one)
    balancer.watch.publish("web", one.address, two.address)
    await balancer.routes_to(one.address, two.address)  # the loop still waits for the reload's outcome
    await killed_and_back(balancer)
    await balancer.routes_to(one.address, two.address)
    await balancer.settled()
    await balancer.judged(generation, accepted=True)


async def test_a_template_change_alone_is_applied(balancer: LoadBalancer, web_servers: Servers) -> None:
    await serving(balancer, *web_servers)
    changed = balancer.home.template.replace(
        "    default_backend web", "    http-request return status 418 if { path / }\n    default_backend web"
    )
    await balancer.judged(balancer.import_template(changed), accepted=True)
    assert (await balancer.home.get()).startswith("418")
    assert (await balancer.home.processes()).reloads == 1


async def test_a_changed_file_alone_is_applied(balancer: LoadBalancer, web_servers: Servers) -> None:
    await serving(balancer, *web_servers)
    template = balancer.home.template.replace(
        "    default_backend web",
        "    http-request return status 200 content-type text/plain file {{ files_dir }}/hello.txt",
    )
    first = balancer.import_template(template, haproxy_files={"hello.txt": "hello"})
    await balancer.judged(first, accepted=True)
    assert await balancer.home.get() == "200 hello"
    second = balancer.import_template(template, haproxy_files={"hello.txt": "good morning"})
    await balancer.judged(second, accepted=True)
    assert await balancer.home.get() == "200 good morning"


async def test_a_refused_template_leaves_the_last_good_one_with_endpoints_of_now(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, one)
    bad = balancer.home.template.replace("    timeout connect 2s", "    contimeout 2000")
    error = await balancer.judged(balancer.import_template(bad), accepted=False)
    line = bad.splitlines().index("    contimeout 2000") + 1
    assert error.startswith(f"machineconfigurations/tags/lb/haproxy.tpl:{line}: ")
    assert "contimeout" in error
    balancer.watch.publish("web", one.address, two.address)
    await balancer.routes_to(one.address, two.address)
    assert "contimeout" not in balancer.home.config.read_text()
    assert "contimeout" in await balancer.problem("template")


async def test_a_refused_template_is_still_refused_after_a_restart_and_the_good_one_goes_on(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, one)
    bad = balancer.import_template(balancer.home.template + "nonsense\n")
    await balancer.judged(bad, accepted=False)
    before = await balancer.home.processes()
    await balancer.restart()
    await balancer.judged(bad, accepted=False)
    assert await balancer.home.processes() == before
    balancer.watch.publish("web", one.address, two.address)
    await balancer.routes_to(one.address, two.address)


async def test_a_template_that_does_not_render_is_refused_by_name_and_line(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    await serving(balancer, *web_servers)
    bad = "# first\n{{ undefined_name }}\n" + balancer.home.template
    error = await balancer.judged(balancer.import_template(bad), accepted=False)
    assert "haproxy.tpl:2: `undefined_name` is undefined" in error
    assert (await balancer.home.get()).startswith("200")


async def test_a_worker_that_does_not_come_up_leaves_the_old_configuration_and_traffic(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    await serving(balancer, *web_servers)
    text = balancer.home.config.read_text()
    taken = int(web_servers[0].address.rpartition(":")[2])
    # haproxy -c does not bind, so only the reload can find this out
    bad = balancer.home.template.replace(
        "    default_backend", f"    bind 127.0.0.1:{taken}\n    default_backend"
    )
    error = await balancer.judged(balancer.import_template(bad), accepted=False)
    assert "Address already in use" in error
    assert balancer.home.config.read_text() == text
    assert (await balancer.home.get()).startswith("200")


async def test_a_restart_of_the_daemon_adopts_haproxy_and_changes_nothing(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    generation = await serving(balancer, *web_servers)
    processes = await balancer.home.processes()
    written = balancer.home.config.stat()
    await balancer.restart()
    await balancer.judged(generation, accepted=True)
    assert await balancer.home.processes() == processes
    assert balancer.home.config.stat() == written


async def test_a_file_that_was_written_and_not_seen_to_be_loaded_is_loaded(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    generation = await serving(balancer, *web_servers)
    await balancer.stop()
    balancer.state.save(structs.replace(balancer.state.load(), applied="another"))
    await balancer.restart()
    await balancer.judged(generation, accepted=True)
    assert (await balancer.home.processes()).reloads == 1


async def test_a_daemon_that_lost_its_state_goes_on_with_what_the_store_says(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    generation = await serving(balancer, *web_servers)
    await balancer.stop()
    balancer.files.save("haproxy.json", b"{damaged")
    await balancer.restart()
    await balancer.judged(generation, accepted=True)
    await balancer.routes_to(*(server.address for server in web_servers))


async def test_a_template_that_cannot_be_told_keeps_the_last_one_and_its_endpoints_current(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, one)
    desired = balancer.board.desired.value
    assert desired is not None
    balancer.board.desired.set(structs.replace(desired, generation=9, proxy=None, proxy_held=True))
    await balancer.judged(9, accepted=False)
    balancer.watch.publish("web", one.address, two.address)
    await balancer.routes_to(one.address, two.address)


async def test_a_service_that_left_the_configuration_stays_known_to_the_last_good_template(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, one)
    desired = balancer.board.desired.value
    assert desired is not None
    assert desired.proxy is not None
    other = structs.replace(desired.proxy, template=desired.proxy.template + "# another\n")
    balancer.board.desired.set(structs.replace(desired, generation=9, proxy=other, known_services={}))
    assert "there is no service 'web'" in await balancer.judged(9, accepted=False)
    await balancer.restart()
    await balancer.judged(9, accepted=False)
    balancer.watch.publish("web", one.address, two.address)
    await balancer.routes_to(one.address, two.address)


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
    await eventually(lambda: _answers(balancer), "HAProxy answers from its file")


async def test_a_removed_template_leaves_haproxy_running_until_somebody_ends_it(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, one)
    balancer.import_template(None)
    assert "no tag of this machine carries haproxy.tpl" in await balancer.problem("template")
    balancer.watch.publish("web", one.address, two.address)
    await balancer.routes_to(one.address, two.address)
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
    await eventually(lambda: _answers(balancer), "a template brings it back")


async def test_a_template_without_a_runtime_socket_works(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    lines = balancer.home.template.splitlines(keepends=True)
    template = "".join(line for line in lines if "stats socket" not in line)
    balancer.watch.publish("web", web_servers[0].address)
    generation = balancer.import_template(template)
    balancer.start()
    await balancer.judged(generation, accepted=True)
    assert "each change is a reload" in await balancer.problem("template")
    await eventually(lambda: _answers(balancer), "it serves")


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


async def test_no_request_fails_during_reloads(balancer: LoadBalancer, web_servers: Servers) -> None:
    one, two = web_servers
    await serving(balancer, one, two)
    answers: list[str] = []

    async def ask() -> None:
        try:
            answers.append(await balancer.home.get())
        except OSError as error:
            answers.append(repr(error))

    async with asyncio.TaskGroup() as group:
        for number in range(600):  # 200 a second
            if number % 150 == 75:
                balancer.import_template(balancer.home.template + f"# {number}\n")
            group.create_task(ask())
            await asyncio.sleep(0.005)
    assert (await balancer.home.processes()).reloads >= 4
    assert [answer for answer in answers if not answer.startswith("200")] == []
