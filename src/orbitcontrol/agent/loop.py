"""The shape that every loop of the daemon has: woken, it takes one step, and never ends by itself.

A step observes, plans and applies. It is level-triggered: it may be woken for nothing, or once for
many reasons, and does the same either way. A step that fails is reported, logged once for each new
reason, and tried again with growing pauses; other loops do not notice. What it was woken for is
still owed: its reasons are the next step's, too. The tick comes however often a loop is woken.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from orbitcontrol.agent.board import Problems, Wake
from orbitcontrol.errors import OrbitError
from orbitcontrol.log import Log

_log = Log(__name__)

TICK = 300.0
"""Seconds between two ticks of a loop; each is up to a fifth longer or shorter."""

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 15.0


async def forever(
    name: str,
    step: Callable[[frozenset[str]], Awaitable[None]],
    *,
    wake: Wake,
    problems: Problems,
    tick: float = TICK,
) -> None:
    """Calls ``step`` with the reasons of each wake, the first time at once. Never returns.

    A tick, and a new attempt after a failure, has the reason "tick".
    """
    clock = asyncio.get_running_loop().time
    pause = 0.0
    reasons = frozenset({"start"})
    next_tick = clock() + _about(tick)
    while True:
        failure = await _attempt(name, step, reasons)
        problems.report(f"loop {name}", {name: failure} if failure else {})
        pause = min(max(pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE) if failure else 0.0
        owed = reasons if failure else frozenset[str]()
        until_tick = max(next_tick - clock(), 0.0)
        reasons = owed | await wake.wait(min(_about(pause), until_tick) if failure else until_tick)
        if clock() >= next_tick:
            reasons |= {"tick"}
            next_tick = clock() + _about(tick)


def _about(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)


async def _attempt(
    name: str, step: Callable[[frozenset[str]], Awaitable[None]], reasons: frozenset[str]
) -> str | None:
    """Takes the step; the reason of its failure, or None."""
    try:
        await step(reasons)
    except OrbitError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 -- a fault in one loop must not end the others
        _log.error("step failed unexpectedly, trying again", exc_info=True, loop=name)
        return f"unexpected {type(error).__name__}: {error}"
    return None
