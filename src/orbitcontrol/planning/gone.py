"""Gone: when a machine that no longer says anything needs not be waited for any more.

A load balancer that does not confirm a drain, and a machine that holds a slot, are waited for however long it
takes: they may route, or have stopped something, although their daemons are silent. Only a machine that is
*off* does neither. From outside it cannot be told from one behind a broken network, so two things have to say
it together, both for a while:

- *The store*: no lease for ``LEASES`` TTLs. Counted is what was read, not what the clock says: from the first
  reading without the lease to the last one, while no two of them are further apart than one TTL, so that no
  lease fits in between. A daemon that was paused, or whose store was silent, begins anew.
- *The machine*: the last ``ROUNDS`` times that it was asked, all of its places were silent: connects ran into
  time-outs, or the network said that it is unreachable. Its places are its daemon's ``/check``, a port where
  nobody listens, and what its HAProxy binds. An accept proves a kernel that works, and so does a refusal: a
  daemon that is frozen accepts nothing once its backlog is full, but the closed port still refuses.

Whoever never reached the other's ``/check`` learns nothing from silence: a firewall may be between the two.
Then nothing is known, and that is said. A lease, or an answer of any place, ends all that was collected.

Every value here errs on the side of waiting: what is unknown holds a rollout and names the machine, and
people can say ``forget``; what is wrongly called gone loses requests.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct, structs

LEASES = 3
"""TTLs without a lease."""

ROUNDS = 3
"""Rounds of connects in a row, each of them silent everywhere."""

CLOSED_PORT = 65_123
"""Where hardly anybody listens: above the ports that kernels give away, and those that Orbit picks."""

MOST_BINDS = 32
"""Addresses of one HAProxy that are asked, the first ones in order: all are of one machine."""

Answer = Literal["accepted", "refused", "silent", "unasked"]
"""What a connect came to. ``silent``: a time-out, or unreachable; ``unasked``: this machine could not ask."""

_ANY = frozenset({"", "*", "0.0.0.0", "::"})  # noqa: S104 -- what others wrote


class Judgement(Struct, frozen=True):
    """What is known of a machine, and why."""

    state: Literal["alive", "unknown", "gone"]
    reason: str


HAS_A_LEASE = Judgement("alive", "it has a lease")
NOT_YET = Judgement("unknown", "it has no lease, but not for long enough to be called gone")


class Evidence(Struct, frozen=True, kw_only=True):
    """What was seen of one machine without a lease. Times are seconds of a clock that goes on in sleep.

    ``absent_since`` is when the first reading without its lease had ended, ``absent_until`` when the last one
    began. ``places`` are all that are asked, ``checks`` those of them where its daemon listens. ``asked`` is
    when the last round began, ``silent_at`` when the last silent one did, ``silent`` how many of those there
    were in a row. ``answered`` names a place that answered in the last round, ``unasked`` one that could not
    be asked.
    """

    absent_since: float
    absent_until: float
    checks: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()
    asked: float = -math.inf
    silent: int = 0
    silent_at: float = -math.inf
    answered: str = ""
    unasked: str = ""


def place_of(address: str, written: str) -> str:
    """The ``host:port`` at which others reach what the machine wrote down; "" where they cannot.

    A program that listens on any address is reached at the machine's own. A loopback address of another
    machine is none: a connect to it would ask this one.
    """
    host, _, port = written.rpartition(":")
    host = host.strip("[]")
    if host in _ANY:
        host = address
    if not port.isdigit() or (_is_loopback(host) and not _is_loopback(address)):
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def noted(
    before: Evidence | None,
    *,
    address: str,
    check: str,
    binds: Iterable[str],
    begun: float,
    now: float,
    ttl: float,
) -> Evidence:
    """After one more reading without the machine's lease, which began at ``begun`` and has ended.

    Places are only added: services know different ones of a machine.
    """
    checks = {place_of(address, check)} - {""}
    listens = sorted({place_of(address, bind) for bind in binds} - {""})[:MOST_BINDS]
    known = before or Evidence(absent_since=now, absent_until=begun)
    places = known.places | checks | {place_of(address, f":{CLOSED_PORT}")} | set(listens)
    if before is None or now - before.absent_until > ttl:
        return Evidence(
            absent_since=now,
            absent_until=begun,
            checks=known.checks | checks,
            places=places,
            asked=known.asked,
        )
    return structs.replace(
        before,
        absent_until=max(before.absent_until, begun),
        checks=before.checks | checks,
        places=places,
        silent=before.silent if places == before.places else 0,
    )


def asked_all(evidence: Evidence, answers: Mapping[str, Answer], *, begun: float, now: float) -> Evidence:
    """After a round of connects that began at ``begun`` and ended ``now``."""
    answered = sorted(place for place, answer in answers.items() if answer in ("accepted", "refused"))
    unasked = sorted(place for place in evidence.places if answers.get(place, "unasked") == "unasked")
    if answered:
        return structs.replace(evidence, absent_since=now, silent=0, answered=answered[0], unasked="")
    if unasked:
        return structs.replace(evidence, silent=0, unasked=unasked[0])
    if begun < evidence.absent_since:
        return evidence
    return structs.replace(evidence, silent=evidence.silent + 1, silent_at=begun, answered="", unasked="")


def ask_at(evidence: Evidence, *, ttl: float) -> float:
    """When to ask again: twice in a TTL."""
    return evidence.asked + ttl / 2


def is_looked_at(evidence: Evidence, *, now: float, ttl: float) -> bool:
    """False when nobody has asked about the machine for so long that its evidence is none any more."""
    return now - evidence.absent_until <= ttl


def judged(evidence: Evidence, *, met: bool, now: float, ttl: float) -> Judgement:
    """What all this says. ``met`` when this machine once reached the other's daemon."""
    if evidence.answered:
        return Judgement("alive", f"it has no lease, but {evidence.answered} answers")
    listens = " or ".join(sorted(evidence.checks))
    absent = evidence.absent_until - evidence.absent_since
    is_short = absent < LEASES * ttl or not is_looked_at(evidence, now=now, ttl=ttl)
    is_unheard = evidence.silent < ROUNDS or now - evidence.silent_at > LEASES * ttl
    doubts = (
        (not listens, "it has no lease, and nobody knows where its daemon listens"),
        (not met, f"it has no lease, and was never reached from here at {listens}: silence proves nothing"),
        (bool(evidence.unasked), f"it has no lease, and {evidence.unasked} cannot be asked from here"),
        (is_short, NOT_YET.reason),
        (is_unheard, "it has no lease, and is being asked whether it is gone"),
    )
    doubt = next((words for holds, words in doubts if holds), "")
    if doubt:
        return Judgement("unknown", doubt)
    return Judgement("gone", f"it has no lease for {LEASES} times its length, and {listens} is silent")
