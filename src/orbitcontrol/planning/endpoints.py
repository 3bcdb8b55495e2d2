"""Which endpoints a machine publishes: one for each run that is proven, and no other.

A run's endpoint is wanted while its checks say up and nobody is about to stop it. What is
published for a run that is not wanted any more is withdrawn, with the reason; a run that never
was published is never mentioned in the store at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal

from msgspec import Struct

from orbitcontrol.model.configuration import Desired
from orbitcontrol.model.runs import Run, RunId, Verdict
from orbitcontrol.model.state import Endpoint, InstanceReport
from orbitcontrol.planning.rollout_steps import Directive


class Address(Struct, frozen=True, order=True):
    """Where an endpoint's key is: its service and ``host:port``."""

    service: str
    host_port: str


class Published(Struct, frozen=True):
    """An endpoint in the store and the run that it stands for; None when that is not known."""

    endpoint: Endpoint
    run: RunId | None


class Publish(Struct, frozen=True):
    """Put an endpoint: a new one, or one whose attributes changed."""

    address: Address
    published: Published
    reason: str


class Withdraw(Struct, frozen=True):
    """Delete an endpoint; ``failed`` when that is because of its checks."""

    address: Address
    reason: str
    failed: bool = False


Action = Publish | Withdraw


class Publisher(Struct, frozen=True):
    """Who publishes: address of the machine, its session, its zone."""

    machine: str
    session: str
    zone: str


class Sight(Struct, frozen=True, kw_only=True):
    """What a machine knows of its runs.

    ``unseen`` names services whose containers cannot be seen now; of them only runs that were
    ``seen`` earlier, and are gone, have ended. ``delayed`` instances (service and number) have to wait
    before they are published anew. ``directives`` say what is to become of endpoints in a rollout; None
    while that is not known.
    """

    runs: Collection[Run]
    verdicts: Mapping[RunId, Verdict]
    directives: Mapping[RunId, Directive] | None = {}
    unseen: Collection[str] = frozenset()
    seen: Collection[RunId] = frozenset()
    delayed: Collection[tuple[str, int]] = frozenset()


def plan_endpoints(
    *,
    publisher: Publisher,
    sight: Sight,
    published: Mapping[Address, Published],
    new_id: Callable[[], str],
) -> tuple[Action, ...]:
    """What to withdraw and what to publish, withdrawals first."""
    wanted = _wanted(sight)
    withdrawals = [
        withdrawal
        for address, item in sorted(published.items())
        if address not in wanted and (withdrawal := _withdrawal(address, item.run, sight)) is not None
    ]
    publications = []
    for address, run in sorted(wanted.items()):
        before = published.get(address)
        same_run = before is not None and before.run == run.id
        if not same_run and (run.id.service, run.id.instance) in sight.delayed:
            continue
        directive = _directive(run.id, before if same_run else None, sight)
        if directive == "hold" or (directive == "drain" and not same_run):
            continue  # what nobody is sent to needs no mark
        state: Literal["up", "draining"] = "draining" if directive == "drain" else "up"
        returns = before is not None and before.endpoint.state == "draining" and state == "up"
        endpoint = Endpoint(
            id=before.endpoint.id if before is not None and same_run and not returns else new_id(),
            machine=publisher.machine,
            session=publisher.session,
            instance=run.id.instance,
            revision=run.revision,
            state=state,
            ack=directive in ("drain", "expose"),
            availability_zone=publisher.zone,
            attributes=run.effective.service.attributes,
        )
        after = Published(endpoint, run.id)
        if after != before:
            reason = _why_publish(before if same_run else None, endpoint)
            publications.append(Publish(address, after, reason))
    return (*withdrawals, *publications)


def _directive(run: RunId, before: Published | None, sight: Sight) -> Directive | None:
    """What is to become of the run's endpoint; while that is not known, what was begun goes on."""
    if sight.directives is not None:
        return sight.directives.get(run)
    if before is None or not before.endpoint.ack:
        return None
    return "drain" if before.endpoint.state == "draining" else "expose"


def _why_publish(before: Published | None, endpoint: Endpoint) -> str:
    if before is None:
        return "checks passed"
    if before.endpoint.state != endpoint.state:
        return "about to be stopped" if endpoint.state == "draining" else "goes on serving"
    if before.endpoint.ack != endpoint.ack:
        return "load balancers are to confirm it" if endpoint.ack else "load balancers have confirmed it"
    return "attributes changed"


def address_of(run: Run) -> Address:
    """Where the run's endpoint is published; an IPv6 host stands in brackets."""
    host = f"[{run.host}]" if ":" in run.host else run.host
    return Address(run.id.service, f"{host}:{run.port}")


def all_judged(
    desired: Desired,
    *,
    runs: Collection[Run],
    verdicts: Mapping[RunId, Verdict],
    published: Collection[RunId],
    instances: Collection[InstanceReport],
) -> bool:
    """True once each service of the machine is published, has failed its checks, or has ended.

    Until then an endpoint that is missing from the store says nothing about the service. A held service
    that runs is one of them: it goes on although its configuration cannot be read.
    """
    ran = {(run.id.service, run.id.instance) for run in runs}
    ended = {(report.service, report.instance) for report in instances if report.state in _ENDED}
    wanted = {
        (name, instance)
        for name, effective in desired.services.items()
        for instance in range(1, effective.service.instances + 1)
    }
    if wanted - ran - ended:
        return False
    return all(
        _is_judged(run, verdicts.get(run.id), published)
        for run in runs
        if run.id.service in desired.held or (run.id.service, run.id.instance) in wanted
    )


def _is_judged(run: Run, verdict: Verdict | None, published: Collection[RunId]) -> bool:
    if verdict is None or not verdict.judged:
        return False
    return not verdict.up or not run.port or run.id in published


_ENDED = frozenset({"failed", "backoff", "blocked"})


def _wanted(sight: Sight) -> dict[Address, Run]:
    wanted: dict[Address, Run] = {}
    for run in sorted(sight.runs, key=lambda run: run.id):
        verdict = sight.verdicts.get(run.id)
        if run.port and verdict is not None and verdict.up and not _is_withdrawn(run, sight):
            wanted.setdefault(address_of(run), run)
    return wanted


def _is_withdrawn(run: Run, sight: Sight) -> bool:
    """True for a run that somebody else stops: its endpoint goes when it has drained."""
    return not run.id.container_id and (sight.directives or {}).get(run.id) == "hold"


def _withdrawal(address: Address, run: RunId | None, sight: Sight) -> Withdraw | None:
    """Why an endpoint that is not wanted must go; None when nothing is known against it."""
    if run is None:
        return None if address.service in sight.unseen else Withdraw(address, "its run is not known")
    present = next((other for other in sight.runs if other.id == run), None)
    if present is not None and _is_withdrawn(present, sight):
        return Withdraw(address, "the machine is to be drained")
    if present is not None and address_of(present) != address:
        return Withdraw(address, "its address changed")
    if present is not None:
        verdict = sight.verdicts.get(run)
        return None if verdict is None else Withdraw(address, f"checks failed: {verdict.reason}", failed=True)
    if address.service in sight.unseen and run not in sight.seen:
        return None
    ended = "its container ended" if run.container_id else "its service is not bound here any more"
    return Withdraw(address, ended)
