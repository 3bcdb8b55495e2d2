"""Whether this store goes on where the one that the machine knew ended.

etcd can be lost with its disks, filled anew from git, or restored from a backup; and a daemon can
be pointed at the wrong store. In each case the store says less than the machine knows, or something
else: above all the revisions, which live in no other place, may be gone or old. To act on that would
roll services back and remove what still serves.

A machine therefore remembers the last configuration that it **trusted**, with its epoch and its
generation. It trusts a store

* of the same epoch whose generation is not below the one that it knew, unless it saw that store go
  back: then a later import alone, which raises the generation again, proves nothing;
* whose ``Continues`` names the epoch that it knew, up to at least the generation that it knew: a
  person has compared the fleet with the store (``orbitctl recover``) and said so.

While it does not trust the store it **holds**: services that it never knew are taken from the new
configuration, because to start what is missing harms nobody; of all others the old configuration
stays in force, so that nothing that runs is replaced, removed or rolled back.

Within a trusted store a single revision can still be older than the one that runs, because
``deployments/`` is not covered by the generation. Serials only grow, so one below the known one
means that it was lost: that service keeps what it has.

And keys can be lost: only an import unbinds a service, or takes a template away, and each import raises
the generation. What is gone at a generation that had it is damage, and stays as it was known.
"""

from __future__ import annotations

from msgspec import Struct, structs

from orbitcontrol.model.configuration import Desired, EffectiveService
from orbitcontrol.model.state import ConfigMeta, Problem

RECOVER = "run orbitctl recover"
_DAMAGE = (
    "what the last import bound here is missing in the store, and stays as it was known: run orbitctl import"
)


class Trust(Struct, frozen=True, kw_only=True, rename="pascal"):
    """What the machine last trusted; ``went_back`` once its store was seen below that."""

    base: Desired | None = None
    went_back: bool = False


class Continuation(Struct, frozen=True):
    """What is in force now, and the trust to remember."""

    desired: Desired
    trust: Trust


def continue_with(trust: Trust, meta: ConfigMeta, fresh: Desired) -> Continuation:
    """Puts ``fresh``, which was read together with ``meta``, in force as far as the store is trusted."""
    base = trust.base
    if base is None:
        return Continuation(fresh, Trust(base=_bare(fresh)))
    went_back = trust.went_back or (meta.epoch == base.epoch and meta.generation < base.generation)
    confirmed = meta.continues.get(base.epoch, -1) >= base.generation
    if confirmed or (meta.epoch == base.epoch and not went_back):
        desired = _without_damage(base, _without_lost_revisions(base, fresh))
        return Continuation(desired, Trust(base=_bare(desired)))
    reason = _reason(base, meta)
    return Continuation(_held(base, fresh, reason), Trust(base=base, went_back=went_back))


def _reason(base: Desired, meta: ConfigMeta) -> str:
    if meta.epoch != base.epoch:
        return f"the store was filled anew, or is another one (its epoch is not {base.epoch}): {RECOVER}"
    return f"the store went back (this machine knew generation {base.generation}): import, then {RECOVER}"


def _held(base: Desired, fresh: Desired, reason: str) -> Desired:
    """The old configuration, and from the new one only services that the machine never knew."""
    kept = base.services.keys() | base.held
    missing = {name: one for name, one in fresh.services.items() if name not in kept}
    differences = [
        Problem(subject=f"service {name}", reason=f"held: {difference}; {RECOVER}")
        for name, one in base.services.items()
        if (difference := _difference(one, fresh.services.get(name)))
    ]
    return structs.replace(
        base,
        services={**missing, **base.services},
        known_services={**fresh.known_services, **base.known_services},
        proxy=base.proxy or (None if base.proxy_held else fresh.proxy),
        authoritative_names=frozenset(),
        holding=reason,
        problems=(Problem(subject="store", reason=reason), *differences),
    )


def _difference(known: EffectiveService, stored: EffectiveService | None) -> str:
    """What would be done to a service if the store were trusted; "" for nothing."""
    if stored is None:
        return "the store does not bind it here"
    if stored.revision != known.revision:
        return f"revision {known.revision} stays, the store says {stored.revision}"
    return "" if stored.service == known.service else "its configuration stays as it was"


def _without_lost_revisions(base: Desired, fresh: Desired) -> Desired:
    """The new configuration, but with the known revision where the store's serial is below it."""
    lost = {
        name: known
        for name, known in base.services.items()
        if name in fresh.services and fresh.services[name].serial < known.serial
    }
    if not lost:
        return fresh
    problems = [
        Problem(
            subject=f"service {name}",
            reason=f"its revision in the store is older than {known.revision}, which stays: {RECOVER}",
        )
        for name, known in sorted(lost.items())
    ]
    return structs.replace(fresh, services={**fresh.services, **lost}, problems=(*fresh.problems, *problems))


def _without_damage(base: Desired, fresh: Desired) -> Desired:
    """The new configuration, with what the very same import had and the store has not any more."""
    if (base.epoch, base.generation, base.machine.tags) != (
        fresh.epoch,
        fresh.generation,
        fresh.machine.tags,
    ):
        return fresh
    present = fresh.services.keys() | fresh.held
    services = {name: one for name, one in base.services.items() if name not in present}
    held = base.held - present
    template = base.proxy if fresh.proxy is None and not fresh.proxy_held else None
    problems = [Problem(subject=f"service {name}", reason=_DAMAGE) for name in sorted({*services, *held})]
    if template is not None:
        problems.append(Problem(subject="template", reason=_DAMAGE))
    return structs.replace(
        fresh,
        services={**fresh.services, **services},
        held=fresh.held | held,
        proxy=fresh.proxy or template,
        problems=(*fresh.problems, *problems),
    )


def _bare(desired: Desired) -> Desired:
    return structs.replace(desired, problems=())
