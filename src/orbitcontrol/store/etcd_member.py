"""One member of an etcd cluster: a gRPC channel, and what is known of the process behind it.

Each member has a channel of its own. gRPC can spread one channel over several addresses, but then it
alone chooses where a request goes: a member that hangs would go on getting its share of them until its
unanswered pings give it away, and one host name would have to do for everybody's certificate.
"""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from orbitcontrol.errors import UsageError
from orbitcontrol.store import etcd_rpc_pb2 as rpc
from orbitcontrol.store.etcd_errors import last_cause, translate
from orbitcontrol.store.etcd_tls import tls_complaint
from orbitcontrol.store.settings import EtcdSettings

Metadata = tuple[tuple[str, str], ...]

_STATUS = "/etcdserverpb.Maintenance/Status"
_RECENT = 1.0
"""Seconds for which an answer counts as a sign of life."""
_SIGN_OF_LIFE_WITHIN = 0.75
"""Seconds that a member has for one. It does not touch its disk for it."""

_OPTIONS: tuple[tuple[str, Any], ...] = (
    # A member that hangs with its connections open is noticed by unanswered pings, in some seven seconds.
    # etcd itself throws out clients that ping more often than every five.
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.ping_timeout_ms", 2000),
    ("grpc.http2.max_pings_without_data", 0),
    # Otherwise gRPC gives one connection attempt 20 s, and waits up to two minutes between attempts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),
    # Requests are bounded by the store's limits, which are checked with better words.
    ("grpc.max_send_message_length", -1),
    # Two stores of one process share no connection and no backoff.
    ("grpc.use_local_subchannel_pool", 1),
    # etcd is never behind a web proxy, and its names carry no service configuration.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
)


class Member:
    """The member at ``endpoint``. Its channel is made when it is first asked for, inside the event loop."""

    def __init__(self, endpoint: str, *, settings: EtcdSettings) -> None:
        self.login = asyncio.Lock()
        """Held while somebody logs in here: the others use the same token."""
        self._endpoint = endpoint
        self._settings = settings
        self._channel: grpc.aio.Channel | None = None
        self._heard_at = -math.inf

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel, whatever its state."""
        if self._channel is None:
            self._channel = _channel(self._endpoint, self._settings)
        return self._channel

    def connected(self) -> bool:
        """True when a connection stands; otherwise one is being made from now on."""
        return self.channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    def heard(self) -> None:
        """Notes that the member has just answered something."""
        self._heard_at = _now()

    async def prove_alive(self) -> None:
        """Raises StoreUnreachable for a member that gives no sign of life, or has no leader.

        A connection that stands proves nothing: the kernel holds it for a process that hangs.
        """
        if _now() - self._heard_at < _RECENT:
            return
        code, details = await self._ask(within=_SIGN_OF_LIFE_WITHIN)
        if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
            raise translate(code, details, address=self._settings.address, writes=False)
        self.heard()

    async def why_not_connected(self, *, within: float) -> str:
        """The reason for having no connection to the member."""
        (code, details), complaint = await asyncio.gather(
            self._ask(within=within), tls_complaint(self._endpoint, self._settings, within=within)
        )
        if complaint is not None:
            return complaint
        if code is grpc.StatusCode.DEADLINE_EXCEEDED or not details:
            return f"{self._endpoint}: no answer"
        return last_cause(details)

    async def close(self) -> None:
        """Ends the connection and all calls over it; the next use makes a channel and looks names up anew."""
        channel, self._channel = self._channel, None
        self._heard_at = -math.inf
        if channel is not None:
            await channel.close()

    async def _ask(self, *, within: float) -> tuple[grpc.StatusCode, str]:
        """How a question after the member's status ended; any answer of etcd's will do."""
        status = self.channel.unary_unary(
            _STATUS, request_serializer=serialize, response_deserializer=rpc.StatusResponse.FromString
        )
        try:
            await status(rpc.StatusRequest(), timeout=within, metadata=metadata(None))
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        except (grpc.aio.UsageError, asyncio.CancelledError):
            if being_cancelled():
                raise
            return grpc.StatusCode.UNAVAILABLE, ""  # somebody else has closed the channel
        return grpc.StatusCode.OK, ""


def serialize(message: Message) -> bytes:
    """A request as bytes."""
    return message.SerializeToString()


def metadata(token: str | None) -> Metadata:
    """What goes with every request.

    With "hasleader" a member that is cut off from the others says so at once, before it does anything,
    and ends its watches, which would never say anything again.
    """
    return (("hasleader", "true"), *((("token", token),) if token else ()))


def being_cancelled() -> bool:
    """True when somebody cancelled this task. gRPC says "cancelled" also when a channel is closed."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _now() -> float:
    return asyncio.get_running_loop().time()


def _channel(endpoint: str, settings: EtcdSettings) -> grpc.aio.Channel:
    if not settings.encrypted:
        return grpc.aio.insecure_channel(f"dns:///{endpoint}", options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_content(settings.ca),
        private_key=_content(settings.key),
        certificate_chain=_content(settings.cert),
    )
    return grpc.aio.secure_channel(f"dns:///{endpoint}", credentials, options=_OPTIONS)


def _content(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot read it for the connection to etcd: {error.strerror}") from error
