"""The grpc check: passes when ``grpc.health.v1`` answers SERVING for its ``Service``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orbitcontrol.model.runs import ProbeResult, Run
from orbitcontrol.model.service import Check, GrpcCheck
from orbitcontrol.probes.reasons import failed

if TYPE_CHECKING:
    from orbitcontrol.probes.grpc_channels import HealthChannels


class GrpcProber:
    """Asks gRPC servers, without TLS."""

    def __init__(self) -> None:
        self._channels: HealthChannels | None = None

    async def probe(self, check: Check, run: Run) -> ProbeResult:
        """Asks once."""
        assert isinstance(check, GrpcCheck)  # noqa: S101 -- the table of probers says so
        from orbitcontrol.probes.grpc_channels import AskingFailed, HealthChannels  # noqa: PLC0415

        if self._channels is None:
            self._channels = HealthChannels()
        key = (run.id, check.host_port, check.service)
        within = check.connect_timeout + check.response_timeout
        try:
            status = await self._channels.status(key, check.host_port, check.service, within=within)
        except AskingFailed as error:
            return failed(check.host_port, str(error))
        if status != "SERVING":
            return failed(check.host_port, f"the server says {status}")
        return ProbeResult(passed=True, detail=status)

    async def close(self) -> None:
        if self._channels is not None:
            await self._channels.close()
