"""The cluster as the store has it at one moment, and the views of it that people ask for.

Everything a view shows comes from one reading at one revision, so its parts fit together. Values
that cannot be understood are left out and named in ``broken``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from msgspec import Struct

from orbitcontrol.codec.activity import Activity, parse_activity
from orbitcontrol.codec.configuration import parse_entries
from orbitcontrol.codec.deployments import parse_deployments
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.codec.wording import nearest
from orbitcontrol.errors import OrbitError, UndecodableValue
from orbitcontrol.model.configuration import Configuration
from orbitcontrol.model.rollouts import MachineDrain, Rollout
from orbitcontrol.model.state import Alive, ConfigMeta, MachineRecord, Problem, Revisions
from orbitcontrol.model.stored import KeyValue
from orbitcontrol.ops.rollout_views import RolloutView, rollout_view
from orbitcontrol.ops.views import EndpointView, InstanceView, MachineView, ServiceView, TagView
from orbitcontrol.planning.desired import effective_service
from orbitcontrol.planning.redolog import overlaid, read_log
from orbitcontrol.ports import Store

T = TypeVar("T")


class Cluster(Struct, frozen=True, kw_only=True):
    """One reading of the whole store, understood as far as it can be."""

    store: str
    meta: ConfigMeta | None
    configuration: Configuration
    revisions: Revisions
    rollouts: dict[str, Rollout] = {}
    activity: dict[str, Activity] = {}
    endpoints: tuple[EndpointView, ...]
    machines: dict[str, MachineRecord]
    alive: dict[str, Alive]
    drains: dict[str, MachineDrain] = {}
    broken: tuple[Problem, ...]


async def read_endpoints(store: Store, keys: Keys, service: str | None = None) -> tuple[EndpointView, ...]:
    """The endpoints of one service, or of all. Unreadable ones are left out.

    Raises ``OrbitError`` with the nearest name for a service that has none and does not exist.
    """
    reading = await store.read(keys.endpoints(service) if service else keys.services)
    found = _endpoint_views(parse_activity(keys, reading.ranges[0]))
    if service and not found and await store.get(keys.service_config(service)) is None:
        require_service((await read_cluster(store, keys)).configuration, service)
    return found


async def read_cluster(store: Store, keys: Keys) -> Cluster:
    """Everything at one revision."""
    reading = await store.read(
        keys.config, keys.deployments, keys.services, keys.machines, keys.all_alive, keys.drains
    )
    config, deployments, services, machines, alive, drains = reading.ranges
    parser = _Parser(keys)
    meta = parser.by_name((item for item in config if item.key == keys.meta), ConfigMeta).get("meta")
    parsed = parse_entries(parser.entries(config, meta))
    revisions = parse_deployments(keys, deployments, machine="")
    for entry, reason in parsed.broken.items():
        parser.broken.append(Problem(subject=f"config/{entry}", reason=reason))
    for service, reason in revisions.broken.items():
        parser.broken.append(Problem(subject=f"service {service}", reason=reason))
    activity = parse_activity(keys, services)
    for each in activity.values():
        parser.broken += [Problem(subject=key, reason=reason) for key, reason in each.broken.items()]
    return Cluster(
        store=store.address,
        meta=meta,
        configuration=parsed.configuration,
        revisions=revisions,
        rollouts=parser.rollouts(deployments),
        activity=activity,
        endpoints=_endpoint_views(activity),
        machines=parser.by_name(machines, MachineRecord),
        alive=parser.by_name(alive, Alive),
        drains=parser.by_name(drains, MachineDrain),
        broken=tuple(parser.broken),
    )


def machine_views(cluster: Cluster) -> list[MachineView]:
    """All machines that have a record or a lease, by address."""
    return [_machine_view(cluster, address) for address in sorted({*cluster.machines, *cluster.alive})]


def tag_views(cluster: Cluster) -> list[TagView]:
    """All tags that the configuration has or that a machine carries, by name."""
    carried = {tag for record in cluster.machines.values() for tag in record.tags}
    views = []
    for name in sorted({*cluster.configuration.tags, *carried}):
        tag = cluster.configuration.tags.get(name)
        machines = sorted(address for address, record in cluster.machines.items() if name in record.tags)
        views.append(
            TagView(
                tag=name,
                services=tuple(sorted(tag.services)) if tag else (),
                template=tag is not None and tag.template is not None,
                certs=tuple(sorted(tag.certs)) if tag else (),
                haproxy_files=tuple(sorted(tag.haproxy_files)) if tag else (),
                machines=tuple(machines),
            )
        )
    return views


def service_views(cluster: Cluster) -> list[ServiceView]:
    """All services of the configuration, by name."""
    return [_service_view(cluster, name) for name in sorted(cluster.configuration.services)]


def service_view(cluster: Cluster, name: str) -> ServiceView:
    """One service. Raises ``OrbitError`` with the nearest name when there is none."""
    require_service(cluster.configuration, name)
    return _service_view(cluster, name)


def require_service(configuration: Configuration, name: str) -> None:
    """Raises ``OrbitError`` unless the configuration has the service."""
    if name in configuration.services:
        return
    hint = _did_you_mean(name, configuration.services) or "; `orbitctl service` lists all"
    raise OrbitError(f"service {name}: there is no such service{hint}")


def problems(cluster: Cluster) -> list[Problem]:
    """What is wrong anywhere, machine by machine, the store's own problems first."""
    found = list(cluster.broken)
    if cluster.meta is None:
        found.append(Problem(subject="store", reason="it has no configuration: run orbitctl import"))
    found += _failed_rollouts(cluster)
    for address, record in sorted(cluster.machines.items()):
        if address in cluster.alive:
            found += [
                Problem(subject=f"{address}: {problem.subject}", reason=problem.reason)
                for problem in (*record.problems, *_unknown_tags(cluster, record))
            ]
        else:
            found.append(Problem(subject=address, reason="its daemon has no lease: it is stopped or cut off"))
    return found


def is_empty(cluster: Cluster, address: str) -> bool:
    """True when the machine has no endpoint, and no container of a service, as far as is known."""
    return all(endpoint.machine != address for endpoint in cluster.endpoints) and not any(
        (service := cluster.configuration.services.get(report.service)) is None
        or service.container is not None
        for report in cluster.machines.get(address, MachineRecord()).instances
    )


def _failed_rollouts(cluster: Cluster) -> list[Problem]:
    return [
        Problem(subject=f"service {name}", reason=f"rollout {rollout.id} failed: {rollout.reason}")
        for name, rollout in sorted(cluster.rollouts.items())
        if rollout.state == "failed" and name in cluster.configuration.services
    ]


def _unknown_tags(cluster: Cluster, record: MachineRecord) -> list[Problem]:
    """Tags that the machine was started with and the configuration does not have: most often misspelt."""
    known = cluster.configuration.tags
    return [
        Problem(subject=f"tag {tag}", reason=f"the configuration has no such tag{_did_you_mean(tag, known)}")
        for tag in record.tags
        if tag not in known and cluster.meta is not None
    ]


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known)
    return f"; did you mean {near}?" if near else ""


def problems_of(record: MachineRecord, service: str) -> list[Problem]:
    """What the machine says is wrong with one service."""
    return [problem for problem in record.problems if problem.subject == f"service {service}"]


def _machine_view(cluster: Cluster, address: str) -> MachineView:
    record = cluster.machines.get(address, MachineRecord())
    alive = cluster.alive.get(address)
    verdict, drain = record.proxy, cluster.drains.get(address)
    workers = record.proxy_workers if alive else None
    return MachineView(
        address=address,
        state="gone" if alive is None else "ready" if alive.registered else "registering",
        tags=record.tags,
        zone=record.availability_zone,
        version=record.version,
        session=alive.session if alive else "",
        haproxy="" if verdict is None else "accepted" if verdict.accepted else f"rejected: {verdict.error}",
        leaving_workers=workers.leaving if workers else 0,
        leaving_since=workers.since if workers else "",
        reloaded=record.reload.at if record.reload else "",
        reload_reason=record.reload.reason if record.reload else "",
        drain="" if drain is None else "drained" if is_empty(cluster, address) else "draining",
        drain_since=drain.since if drain else "",
        drain_deadline=drain.deadline if drain else "",
        drain_user=drain.user if drain else "",
        endpoints=sum(endpoint.machine == address for endpoint in cluster.endpoints),
        problems=(*record.problems, *_unknown_tags(cluster, record)),
    )


def _service_view(cluster: Cluster, name: str) -> ServiceView:
    service = cluster.configuration.services[name]
    tags = [tag for tag in cluster.configuration.tags.values() if name in tag.services]
    effective = effective_service(service, [], cluster.revisions)
    deployment = cluster.revisions.service_wide.get(name)
    endpoints = tuple(endpoint for endpoint in cluster.endpoints if endpoint.service == name)
    wanted = sum(
        service.instances
        for address, record in cluster.machines.items()
        if address in cluster.alive and any(tag.name in record.tags for tag in tags)
    )
    source = service.source_control
    return ServiceView(
        service=name,
        revision=effective.revision,
        revision_set_by=deployment.user if deployment is not None and deployment.revision else "",
        image=effective.service.image or "",
        tags=tuple(sorted(tag.name for tag in tags)),
        up=sum(endpoint.state == "up" for endpoint in endpoints),
        wanted=wanted,
        origin=(source.origin or "") if source else "",
        ci_url=(source.ci_url or "") if source else "",
        endpoints=endpoints,
        instances=_instances(cluster, name),
        problems=tuple(
            Problem(subject=address, reason=problem.reason)
            for address, record in sorted(cluster.machines.items())
            if address in cluster.alive
            for problem in problems_of(record, name)
        ),
        rollout=_rollout_view(cluster, name),
    )


def _rollout_view(cluster: Cluster, name: str) -> RolloutView | None:
    rollout = cluster.rollouts.get(name)
    if rollout is None:
        return None
    return rollout_view(rollout, cluster.activity.get(name, Activity()), alive=cluster.alive)


def _instances(cluster: Cluster, name: str) -> tuple[InstanceView, ...]:
    return tuple(
        InstanceView(
            machine=address,
            instance=report.instance,
            state=report.state if address in cluster.alive else "unknown",
            revision=report.revision,
            reason=report.reason,
        )
        for address, record in sorted(cluster.machines.items())
        for report in record.instances
        if report.service == name
    )


class _Parser:
    """Understands keys below the base path and remembers those that it could not."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.broken: list[Problem] = []

    def by_name(self, items: Iterable[KeyValue], expected: type[T]) -> dict[str, T]:
        """Values by the last part of their keys."""
        found: dict[str, T] = {}
        for item in items:
            try:
                found[self._keys.below(item.key)[-1]] = decode(item.value, expected, key=item.key)
            except UndecodableValue as error:
                self.broken.append(Problem(subject=item.key, reason=str(error)))
        return found

    def entries(self, config: Iterable[KeyValue], meta: ConfigMeta | None) -> dict[str, bytes]:
        """The configuration's entries; while an import is being applied, as they will be after it."""
        items = list(config)
        entries = {"/".join(self._keys.below(item.key)[1:]): item.value for item in items}
        if meta is None or meta.state != "applying":
            return entries
        try:
            return overlaid(entries, read_log(items, keys=self._keys, import_id=meta.import_id or ""))
        except UndecodableValue as error:
            self.broken.append(Problem(subject="import", reason=str(error)))
            return entries

    def rollouts(self, items: Iterable[KeyValue]) -> dict[str, Rollout]:
        """The newest rollout of each service."""
        return {
            self._keys.below(item.key)[1]: rollout
            for item in items
            if self._keys.below(item.key)[2:] == ("rollout",)
            for rollout in self.by_name([item], Rollout).values()
        }


def _endpoint_views(activity: Mapping[str, Activity]) -> tuple[EndpointView, ...]:
    """The endpoints of all services, by service and address."""
    views = []
    for service, each in activity.items():
        for host_port, endpoint in each.endpoints.items():
            host, _, port = host_port.rpartition(":")
            views.append(
                EndpointView(
                    service=service,
                    endpoint=host_port,
                    ip=host.strip("[]"),
                    port=int(port) if port.isdigit() else 0,
                    revision=endpoint.revision,
                    zone=endpoint.availability_zone,
                    machine=endpoint.machine,
                    state=endpoint.state,
                    instance=endpoint.instance,
                )
            )
    return tuple(views)
