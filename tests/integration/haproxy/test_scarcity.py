"""A load balancer whose machine runs out of something: it says so, and HAProxy serves on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.haproxy import LoadBalancer, WebServer, serving
from support.haproxy_homes import HAProxyHome
from support.scarcity import no_descriptors_left, no_space_left, small_disk

pytestmark = pytest.mark.integration

Servers = tuple[WebServer, WebServer]


@pytest.fixture
def small_home(haproxy_home: HAProxyHome) -> Iterator[None]:
    """HAProxy's directory, and the daemon's below it, on a small disk."""
    with small_disk(haproxy_home.directory):
        yield
        haproxy_home.end()


async def test_a_full_disk_leaves_the_last_file_whole_and_is_made_good_once_there_is_room(
    small_home: None, balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, one)
    home = balancer.home
    before = home.config.read_text(), sorted(home.directory.iterdir())
    with no_space_left(home.directory):
        balancer.watch.publish("web", one.address, two.address)
        assert "No space left" in await balancer.problem("haproxy")
        assert await home.get() == "200 one"
    assert (home.config.read_text(), sorted(home.directory.iterdir())) == before
    await balancer.routes_to(one.address, two.address)


async def test_without_file_descriptors_nothing_is_taken_out_and_it_goes_on_once_there_are_some(
    balancer: LoadBalancer, web_servers: Servers
) -> None:
    one, two = web_servers
    await serving(balancer, one)
    with no_descriptors_left():
        balancer.watch.publish("web", one.address, two.address)
        assert "Too many open files" in await balancer.problem("haproxy")
    assert await balancer.home.servers() == {f"web-{one.address}"}
    await balancer.routes_to(one.address, two.address)
