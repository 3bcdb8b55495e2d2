"""When a container whose checks keep failing is started anew.

After ``After`` seconds of failing, at most ``Limit`` times in an hour; each time the wait is twice as long as
the one before, as long as the earlier ones are within the hour.
"""

from __future__ import annotations

from collections.abc import Sequence

from orbitcontrol.model.service import Relaunch

HOUR = 3600.0


def due_in(relaunch: Relaunch, *, failing_for: float, earlier: Sequence[float], now: float) -> float | None:
    """Seconds until a container that has been failing so long is started anew; None for not now.

    ``earlier`` are the times of the last hour's relaunches, on the clock of ``now``.
    """
    recent = recent_of(earlier, now=now)
    if len(recent) >= relaunch.limit:
        return None
    return float(max(0.0, relaunch.after * (1 << len(recent)) - failing_for))


def recent_of(earlier: Sequence[float], *, now: float) -> tuple[float, ...]:
    """Those of the last hour."""
    return tuple(at for at in earlier if 0 <= now - at < HOUR)
