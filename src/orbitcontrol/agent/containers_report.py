"""What the containers loop tells the others: the runs, and how each instance is doing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct, structs

from orbitcontrol.model.configuration import Desired, EffectiveService
from orbitcontrol.model.runs import Run, RunId, Verdict
from orbitcontrol.model.state import InstanceReport
from orbitcontrol.planning.backoff import Backoff
from orbitcontrol.planning.container_specs import (
    InstanceKey,
    OwnContainer,
    WantedContainer,
    run_of,
    wanted_containers,
)
from orbitcontrol.planning.containers import Action, ActionKey, ContainerPlan, Start
from orbitcontrol.planning.strangers import StrangerKey

_REPEATEDLY = 2


class Sight(Struct, frozen=True, kw_only=True):
    """One look at the machine: what it is to run now, what there is, and what is planned about it.

    ``busy`` are the actions under way; ``images`` says of each image that is not there yet why its
    last pull failed, "" while the first one goes on.
    """

    desired: Desired
    wanted: Mapping[InstanceKey, WantedContainer]
    alive: Mapping[InstanceKey, OwnContainer]
    plan: ContainerPlan
    busy: Mapping[ActionKey, Action]
    images: Mapping[str, str]
    stops: Mapping[ActionKey, Backoff]
    ended: Collection[InstanceKey]
    verdicts: Mapping[RunId, Verdict]


def service_runs(desired: Desired, before: Iterable[Run]) -> list[Run]:
    """The runs of services without a container: each is one for as long as it is configured."""
    configured = [
        Run(
            id=RunId(name),
            effective=effective,
            host=desired.machine.address,
            port=effective.service.endpoint_port,
        )
        for name, effective in desired.services.items()
        if effective.service.container is None
    ]
    held = [run for run in before if run.id.service in desired.held and not run.id.container_id]
    return configured + held


def container_runs(
    alive: Iterable[OwnContainer], effective: Mapping[str, EffectiveService], *, address: str
) -> list[Run]:
    """The runs of containers; one of a service that was never known to this daemon is left out."""
    return [
        run_of(own, effective[own.key.service], address=address)
        for own in alive
        if own.container.state != "restarting" and own.key.service in effective
    ]


def unseen_runs(desired: Desired, before: Iterable[Run]) -> list[Run]:
    """The runs of containers while Docker is silent: as they were, with today's configuration."""
    return [
        structs.replace(run, effective=desired.services.get(run.id.service, run.effective))
        for run in before
        if run.id.container_id
    ]


def instance_reports(sight: Sight) -> tuple[InstanceReport, ...]:
    """Every instance that the machine should run, and those of held services, in order."""
    targets = {one.key: one.config_hash for one in wanted_containers(sight.desired)}
    containers = [_container_report(sight, one, targets.get(one.key, "")) for one in sight.wanted.values()]
    held = [
        InstanceReport(
            service=key.service,
            instance=key.instance,
            state="held",
            reason="its configuration cannot be determined",
            revision=own.revision,
            revision_source=own.revision_source,
            serial=own.serial,
        )
        for key, own in sight.alive.items()
        if key.service in sight.desired.held
    ]
    return tuple(
        sorted(
            [*containers, *held, *process_reports(sight.desired, sight.verdicts)],
            key=lambda one: (one.service, one.instance),
        )
    )


def process_reports(desired: Desired, verdicts: Mapping[RunId, Verdict]) -> list[InstanceReport]:
    """Services that somebody else runs."""
    return [
        _judged(InstanceKey(name), verdicts.get(RunId(name)), own=None)
        for name, effective in desired.services.items()
        if effective.service.container is None
    ]


def problems(sight: Sight) -> dict[str, str]:
    """What keeps instances from being as they are wanted: subject → reason."""
    by_service: dict[str, list[str]] = {}
    for key, one in sight.wanted.items():
        backoff = sight.plan.waiting.get(key)
        again = backoff is not None and (backoff.attempts > _REPEATEDLY or key not in sight.ended)
        reasons = (
            sight.plan.blocked.get(key, ""),
            _missing_image(sight, one),
            backoff.reason if backoff is not None and again else "",
            sight.stops[key].reason if key in sight.stops else "",
        )
        by_service.setdefault(key.service, []).extend(reason for reason in reasons if reason)
    strangers: dict[str, str] = {}
    for stopped, stop in sight.stops.items():
        if isinstance(stopped, StrangerKey):
            strangers[f"container {stopped.name}"] = stop.reason
        elif stopped not in sight.wanted:
            by_service.setdefault(stopped.service, []).append(stop.reason)
    return strangers | {
        f"service {service}": "; ".join(dict.fromkeys(reasons))
        for service, reasons in by_service.items()
        if reasons
    }


def _container_report(sight: Sight, wanted: WantedContainer, target: str) -> InstanceReport:
    """The instance as it is aimed at; ``target`` is the hash of what its generation wants of it."""
    key, own = wanted.key, sight.alive.get(wanted.key)
    outdated = own is not None and own.config_hash != target
    generation = sight.desired.generation
    if own is not None and key not in sight.busy:
        report = _judged(key, sight.verdicts.get(own.run_id), own=own)
        return structs.replace(report, generation=generation, outdated=outdated)
    state, reason = _without_container(sight, wanted)
    return InstanceReport(
        generation=generation,
        outdated=outdated,
        service=key.service,
        instance=key.instance,
        state=state,
        reason=reason,
        revision=wanted.effective.revision,
        revision_source=wanted.effective.revision_source,
        serial=wanted.effective.serial,
    )


def _without_container(sight: Sight, wanted: WantedContainer) -> tuple[str, str]:
    """State and reason of an instance that is being changed, or that has no container."""
    key = wanted.key
    state, reason = "starting", ""
    if key in sight.busy:
        action = sight.busy[key]
        state, reason = "starting" if isinstance(action, Start) else "stopping", action.reason
    elif key in sight.plan.blocked:
        state, reason = "blocked", sight.plan.blocked[key]
    elif key in sight.plan.waiting:
        state = "backoff" if key in sight.ended else "failed"
        reason = sight.plan.waiting[key].reason
    elif wanted.image in sight.images:
        reason = _missing_image(sight, wanted)
        state = "failed" if reason else "pulling"
    return state, reason


def _missing_image(sight: Sight, wanted: WantedContainer) -> str:
    """Why the image of an instance that needs it cannot be had; "" when it is not the obstacle."""
    waits = any(action.key == wanted.key for action in sight.plan.actions)
    return sight.images.get(wanted.image, "") if waits else ""


def _judged(key: InstanceKey, verdict: Verdict | None, *, own: OwnContainer | None) -> InstanceReport:
    state = "starting"
    if verdict is not None and verdict.judged:
        state = "running" if verdict.up else "unhealthy"
    return InstanceReport(
        service=key.service,
        instance=key.instance,
        state=state,
        reason="" if verdict is None else verdict.reason,
        revision="" if own is None else own.revision,
        revision_source="" if own is None else own.revision_source,
        serial=0 if own is None else own.serial,
    )
