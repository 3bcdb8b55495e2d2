from __future__ import annotations

import asyncio
from typing import Any, cast

from orbitcontrol.agent.containers_words import LINES, SIZE, LastWords
from orbitcontrol.errors import DockerError


class Engine:
    """Containers whose logs are read when a test allows it."""

    def __init__(self, logs: dict[str, str]) -> None:
        self.logs = logs
        self.answer = asyncio.Event()

    async def log_tail(self, container_id: str, *, lines: int, size: int) -> str:
        assert (lines, size) == (LINES, SIZE)
        await self.answer.wait()
        if container_id not in self.logs:
            raise DockerError("its log driver does not support reading")
        return self.logs[container_id]


async def test_a_container_may_be_removed_when_its_log_has_been_read() -> None:
    engine = Engine({"c1": "one\ntwo\n"})
    words = LastWords(cast("Any", engine))
    told: list[str] = []
    async with asyncio.TaskGroup() as group:
        words.read("c1", told.append, group)
        heard = group.create_task(words.heard(["c1", "c2"]))
        await asyncio.sleep(0)
        assert not heard.done()
        engine.answer.set()
        await heard
        assert told == ["one | two"]
        await words.heard(["c1"])


async def test_of_a_log_that_cannot_be_read_or_says_nothing_nothing_is_told() -> None:
    engine = Engine({"empty": "\n\n"})
    engine.answer.set()
    words = LastWords(cast("Any", engine))
    told: list[str] = []
    async with asyncio.TaskGroup() as group:
        words.read("empty", told.append, group)
        words.read("unreadable", told.append, group)
        await words.heard(["empty", "unreadable"])
    assert told == []
