"""The tcp check: passes when a connection is accepted."""

from __future__ import annotations

import asyncio
import contextlib

from orbitcontrol.model.runs import ProbeResult, Run
from orbitcontrol.model.service import Check, TcpCheck


class TcpProber:
    """Connects, and closes again without a word."""

    async def probe(self, check: Check, run: Run) -> ProbeResult:
        """Asks once."""
        assert isinstance(check, TcpCheck)  # noqa: S101 -- the table of probers says so
        name, _, number = check.host_port.rpartition(":")
        if not number.isdigit():
            return ProbeResult(passed=False, detail=f"{check.host_port!r} is not host:port")
        try:
            async with asyncio.timeout(check.connect_timeout):
                _, writer = await asyncio.open_connection(name.strip("[]"), int(number))
        except TimeoutError:
            return ProbeResult(passed=False, detail=f"{check.host_port}: no connection in time")
        except (OSError, OverflowError, UnicodeError) as error:
            return ProbeResult(passed=False, detail=f"{check.host_port}: {_plain(error)}")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return ProbeResult(passed=True, detail="connected")

    async def close(self) -> None:
        """Nothing stays open between questions."""


def _plain(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
