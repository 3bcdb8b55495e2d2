"""Asking ``grpc.health.v1.Health/Check``, with a channel kept for as long as it answers and is used.

After a failure gRPC waits before it connects again, longer each time, and answers in the meantime
that it cannot: a server that is back would go on failing its checks. So a channel that failed is
closed, and the next question opens another.

Loading this module loads gRPC, which costs 70 ms and some 15 MB: only a machine with such a check does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Hashable
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it writes to standard error on its own otherwise

import grpc
import grpc.aio
from msgspec import Struct

from orbitcontrol.probes.grpc_health_pb2 import HealthCheckRequest, HealthCheckResponse

_METHOD = "/grpc.health.v1.Health/Check"

_UNUSED = 180.0
"""Seconds after which a channel that nobody asks with is closed, from when its last answer was due."""

_OPTIONS: tuple[tuple[str, Any], ...] = (
    # An answer has three bytes; what sends more is not read.
    ("grpc.max_receive_message_length", 4096),
    ("grpc.max_metadata_size", 16384),
    ("grpc.enable_retries", 0),
    # A new channel connects anew, whatever became of others to the same place.
    ("grpc.use_local_subchannel_pool", 1),
    # A check asks the address that it names, not a proxy, and names carry no service configuration.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
)


class AskingFailed(Exception):
    """There is no status; the message says why."""


class _Kept(Struct):
    """A channel, its one method, and the timer that closes it when it is not used."""

    channel: grpc.aio.Channel
    check: Any
    timer: asyncio.TimerHandle | None = None


class HealthChannels:
    """The channels of all grpc checks."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, _Kept] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def status(self, key: Hashable, host_port: str, service: str, *, within: float) -> str:
        """The status's name, such as ``SERVING``. ``key`` is whose channel to use. Raises AskingFailed."""
        kept = self._channel(key, host_port, within)
        try:
            answer = await kept.check(HealthCheckRequest(service=service), timeout=within)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                self._drop(key, kept)
            raise AskingFailed(_words(error, service, within)) from error
        except BaseException:
            self._drop(key, kept)
            raise
        names = HealthCheckResponse.ServingStatus
        return names.Name(answer.status) if answer.status in names.values() else f"status {answer.status}"

    async def close(self) -> None:
        for key, kept in list(self._kept.items()):
            self._drop(key, kept)
        if self._closing:
            await asyncio.wait(self._closing)

    def _channel(self, key: Hashable, host_port: str, within: float) -> _Kept:
        loop = asyncio.get_running_loop()
        kept = self._kept.get(key)
        if kept is None:
            channel = grpc.aio.insecure_channel(f"dns:///{host_port}", options=_OPTIONS)
            check: Any = channel.unary_unary(
                _METHOD,
                request_serializer=HealthCheckRequest.SerializeToString,
                response_deserializer=HealthCheckResponse.FromString,
            )
            kept = self._kept[key] = _Kept(channel, check)
        if kept.timer is not None:
            kept.timer.cancel()
        kept.timer = loop.call_later(within + _UNUSED, self._drop, key, kept)
        return kept

    def _drop(self, key: Hashable, kept: _Kept) -> None:
        if self._kept.get(key) is not kept:
            return
        del self._kept[key]
        if kept.timer is not None:
            kept.timer.cancel()
        task = asyncio.create_task(kept.channel.close(), name="close a channel of a check")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _words(error: grpc.aio.AioRpcError, service: str, within: float) -> str:
    details = error.details() or ""
    match error.code():
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"no answer within {within:g} s"
        case grpc.StatusCode.UNIMPLEMENTED:
            return "the server has no grpc.health.v1.Health"
        case grpc.StatusCode.NOT_FOUND:
            return f"the server does not know the service {service!r}"
        case grpc.StatusCode.UNAVAILABLE:
            # The system's own words stand behind gRPC's, which name the address once more.
            return details.rpartition(": ")[2] or "no connection"
        case code:
            return f"{code.name} {details}".strip()
