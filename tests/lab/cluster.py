"""The lab as a whole: a network, three members of etcd, and hosts.

with Lab(hosts=3) as lab:
    lab.import_tree()
    lab.wait_until_routed()
    with lab.load(rate=200) as load:
        lab.hosts[2].power_off()
    assert not load.report.failures
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any, Self

from lab.hosts import Host
from lab.images import REVISIONS, Revision, archive
from lab.leftovers import home
from lab.load import Load
from lab.load_words import Plan
from lab.network import into, network
from lab.programs import MORTAL, Starter
from lab.trees import tree, web
from support.etcd import EtcdCluster, Place
from support.machine import Cluster, eventually

_FIRST_MEMBER = 201
NOBODY = ("", "")
_APP, _LB = "app", "lb"


class Lab:
    """A context in which the hosts run; in the end nothing of it is left.

    The first ``balancers`` of the hosts run HAProxy, all of them run containers. ``cluster`` is the store
    with a person's commands (``lab.cluster.orbitctl("status")``), ``etcd`` its members.
    """

    def __init__(
        self,
        *,
        hosts: int = 3,
        balancers: int = 2,
        lease_ttl: str = "3s",
        revisions: Sequence[Revision] = REVISIONS,
    ) -> None:
        self.hosts: list[Host] = []
        self.revisions = tuple(revisions)
        self._planned = [[_APP, _LB] if number < balancers else [_APP] for number in range(hosts)]
        self._lease_ttl = lease_ttl
        self._stack = ExitStack()
        self._numbers = iter(range(1, _FIRST_MEMBER))

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.directory = stack.enter_context(home())
            self._starter = stack.enter_context(Starter())
            self.network = stack.enter_context(network(self.directory.name))
            stack.callback(self._power_off_all)
            self._start_etcd(stack)
            self.cluster = Cluster(self.directory, self.etcd.url)
            self.hosts = [self._new_host(tags) for tags in self._planned]
            for host in self.hosts:
                host.power_on()
            self._images = archive(self.revisions)
            for member in self.etcd.members:
                member.wait_until_healthy()
            with ThreadPoolExecutor() as pool:
                list(pool.map(self._make_ready, self.hosts))
            self.wait_until_alive()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def name(self) -> str:
        """What everything that belongs to the lab has in its name."""
        return self.directory.name

    @property
    def balancers(self) -> list[Host]:
        return [host for host in self.hosts if host.balances]

    @property
    def targets(self) -> tuple[str, ...]:
        """``host:port`` of each load balancer."""
        return tuple(host.target for host in self.balancers)

    def add_host(self, *, tags: Sequence[str] = (_APP,)) -> Host:
        """One host more, ready."""
        host = self._new_host(tags)
        self.hosts.append(host)
        host.power_on()
        self._make_ready(host)
        self.wait_until_alive([host])
        return host

    def remove_host(self, host: Host) -> None:
        """The host never comes back; nobody is told."""
        host.power_off()
        self.hosts.remove(host)

    def add_revisions(self, *revisions: Revision) -> None:
        """Has more revisions of the image in every engine; hosts must be on."""
        self.revisions += revisions
        self._images = archive(self.revisions)
        for host in self.hosts:
            host.load(self._images)

    def import_tree(self, files: dict[str, Any] | None = None) -> None:
        """Imports the files of a tree; by default the web service with its first revision."""
        written = self.cluster.tree(files or tree(web(self.revisions[0])))
        self.cluster.orbitctl("import", str(written), "--yes")

    def wait_until_alive(self, hosts: Iterable[Host] | None = None) -> None:
        """Until each host's daemon has a session in the store."""
        self._wait_for(lambda session: True, hosts, what="a session")

    def wait_until_ready(self, hosts: Iterable[Host] | None = None) -> None:
        """Until each host's daemon says that all its services have been judged: not before an import."""
        self._wait_for(lambda session: bool(session.get("Registered")), hosts, what="services judged")

    def wait_until_routed(self, replicas: int | None = None) -> None:
        """Until each load balancer's answers come from so many containers; by default one a host."""
        count = replicas or len(self.hosts)

        def routed(target: str) -> bool:
            found = answering(target, times=2 * count)
            return NOBODY not in found and len(found) == count

        for target in self.targets:
            eventually(
                lambda target=target: routed(target),  # type: ignore[misc]
                what=f"{count} containers answer through {target}",
            )

    def load(self, plan: Plan | None = None, **fields: Any) -> Load:
        """Requests through all load balancers: a context, whose ``report`` tells afterwards what failed."""
        chosen = plan or Plan(targets=self.targets, **fields)
        return Load(chosen, starter=self._starter, directory=self.directory)

    def _wait_for(
        self, enough: Callable[[dict[str, Any]], bool], hosts: Iterable[Host] | None, *, what: str
    ) -> None:
        wanted = list(self.hosts if hosts is None else hosts)

        def reached() -> bool:
            for host in wanted:
                host.daemon.complain()
            sessions = {
                each.key.rpartition("/")[2]: json.loads(each.value) for each in self.cluster.stored("alive/")
            }
            return all(
                host.address in sessions and enough(sessions[host.address]) and host.listens()
                for host in wanted
            )

        eventually(reached, what=f"{what} of {[host.address for host in wanted]}")

    def _new_host(self, tags: Sequence[str]) -> Host:
        number = next(self._numbers)
        return Host(
            number,
            network=self.network,
            starter=self._starter,
            directory=self.directory / f"h{number}",
            tags=tags,
            options=[*self.cluster.options, "--lease-ttl", self._lease_ttl],
        )

    def _make_ready(self, host: Host) -> None:
        host.wait_for_engine()
        host.daemon.start()
        host.load(self._images)

    def _start_etcd(self, stack: ExitStack) -> None:
        places = []
        for number in range(_FIRST_MEMBER, _FIRST_MEMBER + 3):
            namespace = self.network.plug(number)
            stack.callback(self.network.unplug, number)
            places.append(Place(self.network.address(number), (*MORTAL, *into(namespace))))
        self.etcd = EtcdCluster(self.directory / "etcd", places=places)
        stack.callback(self.etcd.kill)
        for member in self.etcd.members:
            self.start_member(member.name)

    def start_member(self, name: str) -> None:
        """Starts a member of etcd that was stopped or killed, without waiting until it answers."""
        member = next(each for each in self.etcd.members if each.name == name)
        self._starter(member.launch)

    def _power_off_all(self) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Host.power_off, self.hosts))


def answering(target: str, *, times: int) -> set[tuple[str, str]]:
    """Revision and container of whoever answers so many requests in a row; ``NOBODY`` if one fails."""
    found = set()
    for _ in range(times):
        who = NOBODY
        connection = http.client.HTTPConnection(target, timeout=3)
        with suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/")
            answer = connection.getresponse()
            if answer.status == 200:
                who = (answer.headers["X-Revision"], answer.headers["X-Instance"])
        connection.close()
        found.add(who)
    return found
