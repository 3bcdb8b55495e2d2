import asyncio
from collections.abc import Awaitable, Callable

from orbitcontrol.agent.board import Problems, Wake
from orbitcontrol.agent.loop import forever
from orbitcontrol.errors import OrbitError

Step = Callable[[frozenset[str]], Awaitable[None]]


async def reasons_of_steps(
    step: Step, wake: Wake, *, count: int, tick: float = 300.0
) -> list[frozenset[str]]:
    """The reasons of the first steps of a loop."""
    seen: list[frozenset[str]] = []
    enough = asyncio.Event()

    async def noting(reasons: frozenset[str]) -> None:
        seen.append(reasons)
        if len(seen) >= count:
            enough.set()
        await step(reasons)

    loop = asyncio.create_task(forever("test", noting, wake=wake, problems=Problems(), tick=tick))
    async with asyncio.timeout(20):
        await enough.wait()
    loop.cancel()
    await asyncio.wait({loop})
    return seen


async def test_what_a_failed_step_was_woken_for_is_owed_to_the_next_one() -> None:
    wake = Wake()

    async def step(reasons: frozenset[str]) -> None:
        if reasons == {"start"}:
            wake.ring("configuration")
        elif reasons == {"configuration"}:
            wake.ring("something else")
            raise OrbitError("the store does not answer")

    seen = await reasons_of_steps(step, wake, count=3)
    assert seen[1:] == [{"configuration"}, {"configuration", "something else"}]


async def test_a_step_that_succeeded_owes_nothing() -> None:
    wake = Wake()

    async def step(reasons: frozenset[str]) -> None:
        if "third" not in reasons:
            wake.ring("second" if "start" in reasons else "third")

    assert await reasons_of_steps(step, wake, count=3) == [{"start"}, {"second"}, {"third"}]


async def test_a_failed_step_is_tried_again_without_being_woken() -> None:
    async def step(reasons: frozenset[str]) -> None:
        if reasons == {"start"}:
            raise RuntimeError("a fault")

    assert await reasons_of_steps(step, Wake(), count=2) == [{"start"}, {"start", "tick"}]


async def test_the_tick_comes_to_a_loop_that_is_always_woken() -> None:
    wake = Wake()
    loop = asyncio.get_running_loop()

    async def step(_: frozenset[str]) -> None:
        loop.call_later(0.01, wake.ring, "busy")

    seen = await reasons_of_steps(step, wake, count=40, tick=0.1)
    ticks = [reasons for reasons in seen if "tick" in reasons]
    assert 1 <= len(ticks) < len(seen) / 2
