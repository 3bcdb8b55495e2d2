"""One gRPC channel to an etcd cluster: readiness, login, deadlines.

A call first waits until a connection stands. That keeps "never sent" (``StoreUnreachable``) apart from
"sent, and then no answer" (``StoreAmbiguous`` for a transaction): with a connection standing, gRPC's own
wording does not have to be understood. What is lost in between counts as sent.

Calls that can be repeated are, on another member if there is one, until their time is over.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from msgspec import Struct

from orbitcontrol.errors import StoreUnreachable, UsageError
from orbitcontrol.store import etcd_rpc_pb2 as rpc
from orbitcontrol.store.etcd_errors import cannot_connect, is_stale_token, translate
from orbitcontrol.store.settings import EtcdSettings

Answer = TypeVar("Answer", bound=Message)

_CONNECT_POLL = 0.005
_RETRY_PAUSE = 0.05
_REASON_TIMEOUT = 0.2
"""Seconds of a call's time that are kept for asking gRPC why there is no connection."""

_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.lb_policy_name", "round_robin"),
    # A member that hangs with its connections open is noticed by unanswered pings, in some seven seconds.
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

Stream = grpc.aio.StreamStreamCall[Any, Any]
Metadata = tuple[tuple[str, str], ...]


class Method(Struct, Generic[Answer], frozen=True):
    """One of etcd's methods, and the type of its answer. ``writes``: it may change keys."""

    path: str
    answer: type[Answer]
    writes: bool = False


RANGE = Method("/etcdserverpb.KV/Range", rpc.RangeResponse)
READ = Method("/etcdserverpb.KV/Txn", rpc.TxnResponse)
COMMIT = Method("/etcdserverpb.KV/Txn", rpc.TxnResponse, writes=True)
WATCH = Method("/etcdserverpb.Watch/Watch", rpc.WatchResponse)
GRANT = Method("/etcdserverpb.Lease/LeaseGrant", rpc.LeaseGrantResponse)
KEEP_ALIVE = Method("/etcdserverpb.Lease/LeaseKeepAlive", rpc.LeaseKeepAliveResponse)
TIME_TO_LIVE = Method("/etcdserverpb.Lease/LeaseTimeToLive", rpc.LeaseTimeToLiveResponse)
REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", rpc.LeaseRevokeResponse)
_AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", rpc.AuthenticateResponse)
_STATUS = Method("/etcdserverpb.Maintenance/Status", rpc.StatusResponse)


class EtcdConnection:
    """Carries requests to a cluster. The channel is made in the first call, inside the event loop."""

    def __init__(self, settings: EtcdSettings) -> None:
        self.address = settings.address
        self._settings = settings
        self._channel: grpc.aio.Channel | None = None
        self._opening = asyncio.Lock()
        self._token: str | None = None
        self._login = asyncio.Lock()
        self._closed = False

    async def call(self, method: Method[Answer], request: Message) -> Answer:
        """The answer to one request, within the call's time."""

        async def unary(channel: grpc.aio.Channel, metadata: Metadata, timeout: float) -> Answer:
            send = channel.unary_unary(
                method.path,
                request_serializer=_serialize,
                response_deserializer=method.answer.FromString,
            )
            return await send(request, timeout=timeout, metadata=metadata)

        return await self._carry(method, unary)

    async def exchange(self, method: Method[Answer], request: Message) -> Answer:
        """The first answer of a streaming method to one request; the stream is ended then."""

        async def first(channel: grpc.aio.Channel, metadata: Metadata, timeout: float) -> Answer:
            stream = _stream(channel, method, metadata, timeout, requests=iter((request,)))
            try:
                answer = await stream.read()
            finally:
                stream.cancel()
            if isinstance(answer, method.answer):
                return answer
            raise StoreUnreachable(f"{self.address}: the store ended the stream without an answer")

        return await self._carry(method, first)

    @asynccontextmanager
    async def stream(self, method: Method[Answer]) -> AsyncIterator[tuple[Stream, str | None]]:
        """An open stream of ``method`` and the token it was opened with; cancelled at the end."""
        channel, token = await self._ready(self._deadline())
        stream = _stream(channel, method, _metadata(token), None)
        try:
            yield stream, token
        finally:
            stream.cancel()

    def forget(self, token: str | None) -> bool:
        """Marks a token as expired, so that the next call logs in; False when there is no user."""
        if self._token == token:
            self._token = None
        return self._settings.user is not None

    async def close(self) -> None:
        """Ends all calls and the connections."""
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def _carry(
        self,
        method: Method[Answer],
        attempt: Callable[[grpc.aio.Channel, Metadata, float], Awaitable[Answer]],
    ) -> Answer:
        """Makes attempts until one is answered, or may not be repeated, or the time is over."""
        deadline = self._deadline()
        logged_in_again = False
        while True:
            channel, token = await self._ready(deadline)
            try:
                return await attempt(channel, _metadata(token), max(deadline - _now(), 0.001))
            except grpc.aio.AioRpcError as error:
                code, details = error.code(), error.details() or ""
                if is_stale_token(code, details) and not logged_in_again and self.forget(token):
                    logged_in_again = True
                elif method.writes or code is not grpc.StatusCode.UNAVAILABLE or _now() > deadline:
                    raise translate(code, details, address=self.address, writes=method.writes) from error
                else:
                    await asyncio.sleep(_RETRY_PAUSE)
            except asyncio.CancelledError:
                # gRPC says "cancelled" to a call whose channel is closed; nobody cancelled us then.
                if _being_cancelled():
                    raise
                raise translate(
                    grpc.StatusCode.CANCELLED, "closed", address=self.address, writes=method.writes
                ) from None

    async def _ready(self, deadline: float) -> tuple[grpc.aio.Channel, str | None]:
        """The channel with a connection standing, and a token if the cluster wants one."""
        channel = None
        try:
            async with asyncio.timeout_at(deadline - _REASON_TIMEOUT):
                while True:
                    channel = await self._open()
                    if channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
                        break
                    # gRPC's own wait for a change of state cannot be cancelled without leaving a trace.
                    await asyncio.sleep(_CONNECT_POLL)
        except TimeoutError:
            raise await self._not_connected(channel) from None
        return channel, await self._logged_in(channel, deadline)

    async def _open(self) -> grpc.aio.Channel:
        async with self._opening:
            if self._closed:
                raise StoreUnreachable(f"{self.address}: closed")
            if self._channel is None:
                target, host = await _target(self._settings.endpoints)
                self._channel = _channel(self._settings, target, host)
            return self._channel

    async def _not_connected(self, channel: grpc.aio.Channel | None) -> StoreUnreachable:
        """The error for a cluster that no connection leads to, with gRPC's reason.

        The channel is thrown away: the next call looks names up anew and does not wait for a backoff.
        """
        if channel is None:
            return StoreUnreachable(f"{self.address}: cannot connect: its name was not found in time")
        details = "no answer"
        status = channel.unary_unary(
            _STATUS.path, request_serializer=_serialize, response_deserializer=_STATUS.answer.FromString
        )
        try:
            await status(rpc.StatusRequest(), timeout=_REASON_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                details = error.details() or error.code().name
        except (grpc.aio.UsageError, asyncio.CancelledError):
            if _being_cancelled():
                raise
        if self._channel is channel:
            self._channel = None
            await channel.close()
        return cannot_connect(details, address=self.address, encrypted=self._settings.encrypted)

    async def _logged_in(self, channel: grpc.aio.Channel, deadline: float) -> str | None:
        """The token of the settings' user, from the cluster if there is none yet."""
        user, password = self._settings.user, self._settings.password
        if user is None or password is None:
            return None
        try:
            async with asyncio.timeout_at(deadline), self._login:
                if self._token is None:
                    login = channel.unary_unary(
                        _AUTHENTICATE.path,
                        request_serializer=_serialize,
                        response_deserializer=_AUTHENTICATE.answer.FromString,
                    )
                    answer = await login(rpc.AuthenticateRequest(name=user, password=password))
                    self._token = answer.token
                return self._token
        except grpc.aio.AioRpcError as error:
            raise translate(
                error.code(), error.details() or "", address=self.address, writes=False
            ) from error
        except TimeoutError:
            raise StoreUnreachable(f"{self.address}: no answer to the login in time") from None

    def _deadline(self) -> float:
        return _now() + self._settings.call_timeout


def _now() -> float:
    return asyncio.get_running_loop().time()


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _metadata(token: str | None) -> Metadata:
    # Without "hasleader" a member cut off from the others keeps a watch open that never says anything.
    return (("hasleader", "true"), *((("token", token),) if token else ()))


def _stream(
    channel: grpc.aio.Channel,
    method: Method[Any],
    metadata: Metadata,
    timeout: float | None,
    *,
    requests: Iterator[Message] | None = None,
) -> Stream:
    """Opens a stream; ``requests`` are all there will be, without them they are written later."""
    open_stream = channel.stream_stream(
        method.path, request_serializer=_serialize, response_deserializer=method.answer.FromString
    )
    return open_stream(requests, timeout=timeout, metadata=metadata)


async def _target(endpoints: tuple[str, ...]) -> tuple[str, str]:
    """gRPC's name for all endpoints together, and the host that their certificates must name.

    gRPC looks a single name up itself, and does so again when it loses the connection. Several can only
    be given as addresses of one family.
    """
    parts = [endpoint.rpartition(":") for endpoint in endpoints]
    first = parts[0][0].strip("[]")
    if len(endpoints) == 1 and _family(first) is None:
        return f"dns:///{endpoints[0]}", first
    found = [address for host, _, port in parts for address in await _addresses(host.strip("[]"), port)]
    family = _family(found[0][0]) if found else None
    if family is None:
        return f"dns:///{endpoints[0]}", first
    same = [
        f"{f'[{host}]' if family == 6 else host}:{port}" for host, port in found if _family(host) == family
    ]
    return f"ipv{family}:{','.join(same)}", first


async def _addresses(host: str, port: str) -> list[tuple[str, str]]:
    """Addresses of a host, the host itself if it is one; none where the lookup fails."""
    if _family(host) is not None:
        return [(host, port)]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [(str(address[0]), port) for _, _, _, _, address in found]


def _family(host: str) -> int | None:
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None


def _channel(settings: EtcdSettings, target: str, host: str) -> grpc.aio.Channel:
    if not settings.encrypted:
        return grpc.aio.insecure_channel(target, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_content(settings.ca),
        private_key=_content(settings.key),
        certificate_chain=_content(settings.cert),
    )
    # With several addresses gRPC has no single name to check the certificates for.
    return grpc.aio.secure_channel(
        target, credentials, options=(*_OPTIONS, ("grpc.ssl_target_name_override", host))
    )


def _content(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot read it for the connection to etcd: {error.strerror}") from error
