"""HTTP requests as a client makes them: each on a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib


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
