"""The dummy check: answers what its configuration says. For services that nobody can ask."""

from __future__ import annotations

from orbitcontrol.model.runs import ProbeResult, Run
from orbitcontrol.model.service import Check, DummyCheck


class DummyProber:
    """Asks nobody."""

    async def probe(self, check: Check, run: Run) -> ProbeResult:
        """The configured answer."""
        assert isinstance(check, DummyCheck)  # noqa: S101 -- the table of probers says so
        return ProbeResult(passed=check.dummy_result, detail=f"DummyResult is {check.dummy_result}")

    async def close(self) -> None:
        """Nothing to close."""
