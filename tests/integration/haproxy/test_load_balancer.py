"""The proxy loop on a real HAProxy: what a load balancer's users and operators see, whoever runs it."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path

import pytest
from msgspec import structs

from orbitcontrol.model.state import Alive
from support.certificates import Authority
from support.etcd import free_ports
from support.haproxy import (
    LoadBalancer,
    WebServer,
    an_endpoint,
    answers,
    eventually,
    killed_and_back,
    serving,
)
from support.haproxy_homes import EVERY_HAPROXY

pytestmark = [pytest.mark.integration, EVERY_HAPROXY]

Servers = tuple[WebServer, WebServer]


async def test_haproxy_answers_from_every_endpoint(balancer: LoadBalancer, web_servers: Servers) -> None:
    await serving(balancer, *web_servers)
    assert {await balancer.home.get() for _ in range(4)} == {"200 one", "200 two"}


async def test_nothing_is_rendered_before_the_endpoints_are_listed(balancer: LoadBalancer) -> None:
    before = await balancer.home.adapter().current()
    balancer.import_template(balancer.home.template)
    balancer.start()
    assert await balancer.watch.followed.wait_for(lambda services: "web" in services, timeout=10)
    assert await balancer.home.adapter().current() == before
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
    before = await balancer.home.processes()
    changed = balancer.home.template.replace(
        "    default_backend web", "    http-request return status 418 if { path / }\n    default_backend web"
    )
    await balancer.judged(balancer.import_template(changed), accepted=True)
    assert (await balancer.home.get()).startswith("418")
    assert (await balancer.home.processes()).reloads == before.reloads + 1


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
    balancer: LoadBalancer, web_servers: Servers, *, haproxy_managed: bool
) -> None:
    await serving(balancer, *web_servers)
    text = balancer.home.config.read_text()
    taken = int(web_servers[0].address.rpartition(":")[2])
    # haproxy -c does not bind, so only the reload can find this out
    bad = balancer.home.template.replace(
        "    default_backend", f"    bind 127.0.0.1:{taken}\n    default_backend"
    )
    error = await balancer.judged(balancer.import_template(bad), accepted=False)
    # where others run it, the reason is in a log of theirs
    assert ("Address already in use" if haproxy_managed else "HAProxy's log says why") in error
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
    before = await balancer.home.processes()
    await balancer.stop()
    balancer.state.save(structs.replace(balancer.state.load(), applied="another"))
    await balancer.restart()
    await balancer.judged(generation, accepted=True)
    assert (await balancer.home.processes()).reloads == before.reloads + 1


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


async def test_a_removed_template_leaves_the_last_one_serving_with_endpoints_of_now(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, one)
    balancer.import_template(None)
    assert "no tag of this machine carries haproxy.tpl" in await balancer.problem("template")
    balancer.watch.publish("web", one.address, two.address)
    await balancer.routes_to(one.address, two.address)


def signed(authority: Authority, name: str) -> tuple[str, str]:
    """A new key and its certificate."""
    authority.sign(name, names="DNS:localhost")
    return Path(authority.key(name)).read_text(), Path(authority.cert(name)).read_text()


async def shown_certificate(port: int) -> str:
    """Who the server on this port says it is."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()  # an orderly end would wait for the other side's, after the test
    return ssl.DER_cert_to_PEM_cert(shown)


async def test_an_haproxy_without_privileges_gets_certificates_that_root_alone_can_read(
    balancer: LoadBalancer, web_servers: Servers, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    (port,) = free_ports(1)
    template = balancer.home.template.replace(
        "    default_backend web",
        f"    bind 127.0.0.1:{port} ssl crt {{{{ certs_dir }}}}/site.pem\n    default_backend web",
    )
    if "user nobody" not in template:
        template = template.replace("global\n", "global\n    user nobody\n    group nogroup\n", 1)
    balancer.watch.publish("web", web_servers[0].address)
    balancer.start()
    for name in ("first", "second"):
        key, certificate = signed(authority, name)
        generation = balancer.import_template(template, certs={"site.pem": key + certificate})
        await balancer.judged(generation, accepted=True)
        assert await shown_certificate(port) == certificate
    below = [path for path in (balancer.home.config.parent / "certs").rglob("*") if path.is_file()]
    assert {(path.stat().st_uid, path.stat().st_mode & 0o777) for path in below} == {(0, 0o600)}
    assert {(path.parent.stat().st_uid, path.parent.stat().st_mode & 0o777) for path in below} == {(0, 0o700)}


async def test_the_configuration_keeps_the_owner_and_mode_that_people_gave_it(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, one)
    balancer.home.config.chmod(0o640)
    os.chown(balancer.home.config, 33, 34)
    balancer.watch.publish("web", one.address, two.address)
    await balancer.routes_to(one.address, two.address)
    after = balancer.home.config.stat()
    assert (after.st_uid, after.st_gid, after.st_mode & 0o777) == (33, 34, 0o640)


async def test_what_many_changes_leave_behind_is_bounded(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    await serving(balancer, *web_servers)
    template = balancer.home.template.replace("mode http", "mode http\n    errorfile 503 {{ files_dir }}/503")
    for number in range(5):
        page = f"HTTP/1.0 503 {number}\r\n\r\n"
        generation = balancer.import_template(template, haproxy_files={"503": page})
        await balancer.judged(generation, accepted=True)
    config = balancer.home.config
    backups = {path.name for path in config.parent.glob(f"{config.name}?*")}
    assert backups == {f"{config.name}.{number}" for number in (1, 2, 3)}
    named = [path.read_text() for path in config.parent.glob(f"{config.name}*")]
    directories = list((config.parent / "haproxy_files").iterdir())
    assert len(directories) == 4
    assert all(any(str(directory) in text for text in named) for directory in directories)


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
    await eventually(lambda: answers(balancer), "it serves")


async def test_no_request_fails_during_reloads(balancer: LoadBalancer, web_servers: Servers) -> None:
    one, two = web_servers
    await serving(balancer, one, two)
    before = await balancer.home.processes()
    received: list[str] = []

    async def client() -> None:
        while not reloaded.is_set():
            try:
                received.append(await balancer.home.get())
            except OSError as error:
                received.append(repr(error))
            await asyncio.sleep(0.05)

    async def has_received(count: int) -> bool:
        return len(received) >= count

    reloaded = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(10):  # up to 200 requests a second, and no more at once than can be answered
            group.create_task(client())
        for number in range(4):
            changed = f"hard-stop-after 10s\n    maxconn {1000 + number}"
            template = balancer.home.template.replace("hard-stop-after 10s", changed)
            await balancer.judged(balancer.import_template(template), accepted=True)
        after_the_last = len(received) + 100
        await eventually(lambda: has_received(after_the_last), "answers of the last worker")
        reloaded.set()
    assert (await balancer.home.processes()).reloads >= before.reloads + 4
    assert [answer for answer in received if not answer.startswith("200")] == []
