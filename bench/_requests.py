"""HTTP requests as a client makes them: each on a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time


async def ask(port: int, *, patience: float = 5.0) -> bool:
    """True when the server on 127.0.0.1 answers one request with 200."""
    try:
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET / HTTP/1.0\r\nHost: bench\r\n\r\n")
                answer = await reader.read()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except OSError:
        return False
    return answer.split(b"\r\n", 1)[0].split()[1:2] == [b"200"]


async def load(port: int, done: asyncio.Event, *, rate: int) -> tuple[int, int]:
    """Requests sent, ``rate`` a second, and failed until ``done``."""
    tasks = []
    begun = time.perf_counter()
    while not done.is_set():
        tasks.append(asyncio.create_task(ask(port)))
        await asyncio.sleep(max(0.0, begun + len(tasks) / rate - time.perf_counter()))
    answers = await asyncio.gather(*tasks)
    return len(answers), answers.count(False)
