"""Certificates of a running HAProxy: exchanged without a reload, refused by name, removed."""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path

import pytest

from support.certificates import Authority
from support.haproxy import LoadBalancer, WebServer, eventually
from support.haproxy_homes import EVERY_HAPROXY

pytestmark = pytest.mark.integration


class Site:
    """A load balancer that speaks TLS, and an authority that its clients trust."""

    def __init__(self, balancer: LoadBalancer, directory: Path) -> None:
        self.balancer = balancer
        self.authority = Authority(directory)
        self.template = balancer.home.template.replace(
            f"bind 127.0.0.1:{balancer.home.port}",
            f"bind 127.0.0.1:{balancer.home.port} ssl crt {{{{ certs_dir }}}}/site.pem",
        )

    def ca(self) -> str:
        return Path(self.authority.ca).read_text()

    def mixed(self, name: str, other: str) -> str:
        """The certificate of one with the key of the other."""
        return Path(self.authority.cert(name)).read_text() + Path(self.authority.key(other)).read_text()

    def pem(self, name: str) -> str:
        """Certificate and key for a client that asks for this name."""
        self.authority.sign(name, names=f"DNS:{name}")
        return self.mixed(name, name)

    async def is_known_as(self, name: str) -> bool:
        """Whether a new client that asks for this name trusts what it is shown."""
        context = ssl.create_default_context(cafile=self.authority.ca)
        try:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", self.balancer.home.port, ssl=context, server_hostname=name
            )
        except ssl.SSLCertVerificationError:
            return False
        writer.transport.abort()
        return True

    @property
    def path(self) -> Path:
        """Where the configuration on disk has the certificate."""
        found = re.search(r"crt (\S+/site\.pem)", self.balancer.home.config.read_text())
        assert found
        return Path(found[1])

    @property
    def reloads(self) -> list[str]:
        """Why HAProxy was reloaded, the first configuration apart."""
        return [reload.reason for reload in self.balancer.board.reloads.value][1:]


@pytest.fixture
async def site(balancer: LoadBalancer, web_servers: tuple[WebServer, WebServer], tmp_path: Path) -> Site:
    """Serves ``a.example``."""
    site = Site(balancer, tmp_path)
    balancer.watch.publish("web", web_servers[0].address)
    first = balancer.import_template(site.template, certs={"site.pem": site.pem("a.example")})
    balancer.start()
    await balancer.judged(first, accepted=True)
    await eventually(lambda: site.is_known_as("a.example"), "the first certificate")
    return site


@EVERY_HAPROXY
async def test_a_changed_certificate_is_exchanged_without_a_reload(site: Site) -> None:
    pid = (await site.balancer.home.processes()).workers
    new = site.pem("b.example")
    changed = site.balancer.import_template(site.template, certs={"site.pem": new})
    await site.balancer.judged(changed, accepted=True)
    assert await site.is_known_as("b.example")
    assert not await site.is_known_as("a.example")
    assert (await site.balancer.home.processes()).workers == pid
    assert site.reloads == []
    assert site.path.read_text() == new
    assert site.path.stat().st_mode & 0o777 == 0o600


@EVERY_HAPROXY
async def test_a_broken_certificate_is_refused_by_name_and_the_old_one_stays(site: Site) -> None:
    path, good = site.path, site.path.read_text()
    broken = site.balancer.import_template(site.template, certs={"site.pem": "no certificate\n"})
    error = await site.balancer.judged(broken, accepted=False)
    assert "machineconfigurations/tags/lb/certs/site.pem" in error
    assert await site.is_known_as("a.example")
    assert (site.path, path.read_text()) == (path, good)
    mended = site.balancer.import_template(site.template, certs={"site.pem": site.pem("c.example")})
    await site.balancer.judged(mended, accepted=True)
    assert await site.is_known_as("c.example")


async def test_a_key_of_another_certificate_is_refused(site: Site) -> None:
    site.pem("b.example")
    mixed = site.mixed("a.example", "b.example")
    broken = site.balancer.import_template(site.template, certs={"site.pem": mixed})
    await site.balancer.judged(broken, accepted=False)
    assert await site.is_known_as("a.example")


async def test_a_new_certificate_is_a_reload_and_a_removed_one_goes(site: Site) -> None:
    both = site.template.replace("/site.pem", "")
    certs = {"site.pem": site.pem("a.example"), "other.pem": site.pem("b.example")}
    more = site.balancer.import_template(both, certs=certs)
    await site.balancer.judged(more, accepted=True)
    assert len(site.reloads) == 1
    assert await site.is_known_as("b.example")
    less = site.balancer.import_template(both, certs={"other.pem": certs["other.pem"]})
    await site.balancer.judged(less, accepted=True)
    assert len(site.reloads) == 2
    assert not await site.is_known_as("a.example")


async def test_an_exchange_outlasts_the_end_of_haproxy_and_of_the_daemon(site: Site) -> None:
    new = site.pem("b.example")
    changed = site.balancer.import_template(site.template, certs={"site.pem": new})
    await site.balancer.judged(changed, accepted=True)
    await site.balancer.restart()
    again = site.balancer.import_template(
        site.template.replace("retries 3", "retries 2"), certs={"site.pem": new}
    )
    await site.balancer.judged(again, accepted=True)
    assert await site.is_known_as("b.example")


async def test_an_exchange_that_a_crash_left_half_done_is_finished(site: Site) -> None:
    """HAProxy has the new certificate, the disk the old one: as after a kill between the two."""
    await site.balancer.stop()
    new = site.pem("b.example")
    path = site.path
    payload = "".join(f"{line}\n" for line in new.splitlines() if line)
    await site.balancer.home.runtime(f"set ssl cert {path} <<\n{payload}")
    await site.balancer.home.runtime(f"commit ssl cert {path}")
    site.balancer.import_template(site.template, certs={"site.pem": new})
    site.balancer.start()

    async def is_written() -> bool:
        return path.read_text() == new

    await eventually(is_written, "the new certificate on disk")
    assert site.reloads == []
    assert await site.is_known_as("b.example")


async def test_what_haproxy_cannot_exchange_is_a_reload(site: Site) -> None:
    template = site.template.replace(
        "    server {{ e.name }} {{ e.address }}",
        "    server {{ e.name }} {{ e.address }} ssl ca-file {{ certs_dir }}/ca.pem backup",
    )
    certs = {"site.pem": site.pem("a.example"), "ca.pem": site.ca()}
    first = site.balancer.import_template(template, certs=certs)
    await site.balancer.judged(first, accepted=True)
    before = len(site.reloads)
    changed = site.balancer.import_template(template, certs={**certs, "ca.pem": certs["ca.pem"] * 2})
    await site.balancer.judged(changed, accepted=True)
    (reason,) = site.reloads[before:]
    assert "certificates changed; not at runtime: ca.pem" in reason
