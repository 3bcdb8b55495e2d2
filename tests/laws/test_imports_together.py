"""Laws of imports that meet: whatever the order, whoever dies, whichever answer is lost, none is ever half.

Importers run on one store, and each of their calls waits until it is its turn. Hypothesis decides whose
turn it is, and whether the call is answered, or done without an answer, or lost, or on its way until some
time later, or the last one of an importer that dies.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from hypothesis import given, note, settings
from hypothesis import strategies as st
from msgspec import Struct

from orbitcontrol.codec.keys import Keys
from orbitcontrol.errors import StoreAmbiguous, StoreConflict, StoreUnreachable
from orbitcontrol.model.stored import Compare, Limits, Operation
from orbitcontrol.ops.importing import ImportResult
from orbitcontrol.ops.stored_configuration import read_configuration
from orbitcontrol.ports import Store
from orbitcontrol.store.open import open_store
from orbitcontrol.store.transaction import check_transaction
from support.imports import Entries, Killed, Witness, import_entries, was_killed

KEYS = Keys()
NAMES = st.sampled_from([f"services/s{n}" for n in range(6)])
VALUES = st.sampled_from([b"{}", b'{"Instances":2}', b'{"Attributes":{"a":"' + b"x" * 300 + b'"}}'])
TREES = st.lists(st.dictionaries(NAMES, VALUES, min_size=1), min_size=2, max_size=3)
IMPORTERS = st.lists(st.integers(0, 2), min_size=2, max_size=3)
LIMITS = st.builds(Limits, operations=st.integers(2, 4), bytes=st.integers(700, 1200))

Fate = Literal["answered", "unanswered", "lost", "late", "last"]
RARE: list[Fate] = ["unanswered", "lost", "late", "late", "last"]
FATES: st.SearchStrategy[Fate] = st.integers(0, 19).map(lambda n: RARE[n] if n < len(RARE) else "answered")

Call = Callable[[], Awaitable[Any]]


class Turn(Struct, frozen=True):
    """A call that waits for its turn; what it is told is its fate."""

    who: int
    fate: asyncio.Future[Fate]


class Stage:
    """Lets the importers' calls happen one at a time, in an order that ``data`` decides."""

    def __init__(self, store: Store, limits: Limits, data: st.DataObject) -> None:
        self.store = store
        self.limits = limits
        self._data = data
        self._waiting: list[Turn] = []
        self._afloat: list[Call] = []
        self._dead: set[int] = set()
        self._busy = False
        self._on_stage = 0

    async def play(self, who: int, call: Call, *, writes: bool) -> Any:
        """Carries out a call of an importer when it is its turn."""
        turn = Turn(who, asyncio.get_running_loop().create_future())
        self._waiting.append(turn)
        try:
            fate = await turn.fate
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
        if fate == "last":
            self._dead.add(who)
        if who in self._dead:
            raise Killed
        if not writes or fate == "answered":
            return await self._carried_out(call)
        if fate == "unanswered":
            await self._carried_out(call)
        elif fate == "late":
            self._afloat.append(call)
        raise StoreAmbiguous(fate)

    async def direct(self, *importers: asyncio.Task[Any]) -> None:
        """Gives turns until all importers have ended."""
        while not all(importer.done() for importer in importers):
            await asyncio.sleep(0)
            if self._waiting and await self._quiet():
                await self._give_turn()

    async def land(self) -> None:
        """Carries out what is still on its way."""
        while self._afloat:
            with suppress(StoreConflict):
                await self._afloat.pop(0)()

    async def _give_turn(self) -> None:
        """Mostly to whoever was last: then others lie in wait in the middle of something."""
        going_on = [turn for turn in self._waiting if turn.who == self._on_stage]
        choices: list[Turn | Call] = [*self._waiting, *self._afloat]
        if going_on and self._data.draw(st.integers(0, 7), label="goes on") > 0:
            choices = [*going_on]
        number = self._data.draw(st.integers(0, len(choices) - 1), label="which")
        chosen = choices[number]
        if isinstance(chosen, Turn):
            self._on_stage = chosen.who
            self._waiting.remove(chosen)
            chosen.fate.set_result(self._data.draw(FATES, label="fate"))
        else:
            self._afloat.remove(chosen)
            with suppress(StoreConflict):
                await chosen()

    async def _carried_out(self, call: Call) -> Any:
        self._busy = True
        try:
            return await call()
        finally:
            self._busy = False

    async def _quiet(self) -> bool:
        """True when everybody has come to wait for a turn, or to the end."""
        before = tuple(self._waiting)
        for _ in range(20):
            await asyncio.sleep(0)
            if self._busy:
                return False
        return before == tuple(self._waiting)


class Seat:
    """The store as one importer sees it."""

    def __init__(self, stage: Stage, who: int) -> None:
        self._stage = stage
        self._who = who
        self.limits = stage.limits
        self.address = stage.store.address

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        check_transaction(compares, operations, limits=self.limits, address=self.address)
        call = self._stage.store.commit
        result: int = await self._stage.play(self._who, lambda: call(compares, operations), writes=True)
        return result

    async def get(self, key: str) -> Any:
        return await self._stage.play(self._who, lambda: self._stage.store.get(key), writes=False)

    async def read(self, *ranges: Any) -> Any:
        return await self._stage.play(self._who, lambda: self._stage.store.read(*ranges), writes=False)


@asynccontextmanager
async def empty_store() -> AsyncIterator[Store]:
    with tempfile.TemporaryDirectory(dir=_quick_directory()) as directory:
        store = open_store(f"sqlite://{directory}/store.db")
        try:
            yield store
        finally:
            await store.close()


def _quick_directory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


async def check(trees: Sequence[Entries], importers: Sequence[int], stage: Stage) -> None:
    """``importers`` says of each which of the trees it imports; the first tree is in the store already."""
    store = stage.store
    wanted = [trees[number % len(trees)] for number in importers]
    await import_entries(store, KEYS, trees[0], "first")
    witness = await Witness.arrive(store, KEYS)
    tasks = [
        asyncio.create_task(import_entries(Seat(stage, who), KEYS, tree, f"id-{who}"))
        for who, tree in enumerate(wanted)
    ]
    await stage.direct(*tasks)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    note(f"outcomes: {outcomes}")
    last = trees[-1]
    await import_entries(store, KEYS, last, "last")
    await stage.land()
    for log in await logs_of(store):
        assert await store.get(KEYS.import_header(log)), "a part has come without its header"
    await import_entries(store, KEYS, last, "tidies")
    assert not await logs_of(store)
    assert (await read_configuration(store, KEYS)).entries == last
    testimony = await witness.testimony()
    assert all(entries in trees for entries in testimony)
    assert (testimony[0], testimony[-1]) == (trees[0], last)
    for who, outcome in enumerate(outcomes):
        in_force, decided = wanted[who] in testimony, f"id-{who}" in witness.imports
        check_outcome(outcome, in_force=in_force, decided=decided)


async def logs_of(store: Store) -> set[str]:
    """The imports that have something of a log in the store."""
    found = (await store.read(KEYS.import_logs)).ranges[0]
    return {item.key.removeprefix(KEYS.import_logs.start).partition("/")[0] for item in found}


def check_outcome(outcome: Any, *, in_force: bool, decided: bool) -> None:
    """What an importer was told must be so."""
    match outcome:
        case ImportResult(written=written):
            assert decided is written
            assert in_force
        case StoreConflict() | StoreUnreachable():
            assert not decided
        case _:
            assert isinstance(outcome, StoreAmbiguous) or was_killed(outcome), outcome


@given(TREES, IMPORTERS, LIMITS, st.data())
@settings(max_examples=200)
def test_imports_are_whole_in_any_order_and_with_any_loss(
    trees: list[Entries], importers: list[int], limits: Limits, data: st.DataObject
) -> None:
    async def play() -> None:
        async with empty_store() as store:
            await check(trees, importers, Stage(store, limits, data))

    asyncio.run(play())
