"""How long to wait before a container that ended is replaced, or a failed action is tried again.

A container that ended is replaced at once the first time: most ends are single events. When it
ends again before it was healthy for ten seconds, the pauses are 1 s, 2 s, 4 s … up to a minute. A
failed action never gets the free first attempt: its cause is rarely gone the next moment.

``now`` is any clock that only goes forward; all values are its seconds.
"""

from __future__ import annotations

from msgspec import Struct, structs

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
HEALTHY_FOR = 10.0
_ENOUGH_DOUBLINGS = 10


class Backoff(Struct, frozen=True, kw_only=True):
    """One instance's way of failing, or one image's.

    ``attempts`` counts failures in a row; nothing may be tried before ``ready_at``; ``reason`` is
    the last failure's; ``up_since`` is when it last became healthy, None while it is not.
    """

    attempts: int = 0
    ready_at: float = 0.0
    reason: str = ""
    up_since: float | None = None


def seen(backoff: Backoff, *, up: bool, now: float) -> Backoff:
    """After a look at the running instance: ten healthy seconds forget all failures."""
    if _settled(backoff, now):
        return Backoff(up_since=backoff.up_since if up else None)
    if not up:
        return structs.replace(backoff, up_since=None)
    return structs.replace(backoff, up_since=now) if backoff.up_since is None else backoff


def ended(backoff: Backoff, *, reason: str, now: float) -> Backoff:
    """After the instance ended by itself. ``now`` is when it ended, or was seen to have."""
    attempts = 0 if _settled(backoff, now) else backoff.attempts
    return Backoff(attempts=attempts + 1, ready_at=now + pause_after(attempts), reason=reason)


def failed(backoff: Backoff, *, reason: str, now: float, stretch: float = 1.0) -> Backoff:
    """After an action on it failed; ``stretch`` is the caller's jitter, about 1."""
    attempts = max(backoff.attempts, 1)
    return Backoff(attempts=attempts + 1, ready_at=now + pause_after(attempts) * stretch, reason=reason)


def pause_after(attempts: int) -> float:
    """Seconds to wait after so many failures: none, then 1, 2, 4 … 60."""
    if attempts == 0:
        return 0.0
    return min(FIRST_PAUSE * (1 << min(attempts - 1, _ENOUGH_DOUBLINGS)), LONGEST_PAUSE)


def _settled(backoff: Backoff, now: float) -> bool:
    return backoff.up_since is not None and now - backoff.up_since >= HEALTHY_FOR
