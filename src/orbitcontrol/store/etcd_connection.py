"""The connection to an etcd cluster: which member is asked, login, deadlines, and what may be repeated.

A call first waits until a connection stands. That keeps "never sent" (``StoreUnreachable``) apart from
"sent, and then no answer" (``StoreAmbiguous`` for a transaction): with a connection standing, gRPC's own
wording does not have to be understood. What is lost in between counts as sent.

One member is preferred until it fails. What follows from that:

* A call that may be repeated is, until its time is over. If a member keeps silent, the next one is asked
  as well, and whoever answers first is believed: a member may hang, or it may only be slow.
* A transaction goes to one member, once. It is repeated only after an answer that proves that nothing was
  done. So that it does not end in a member that hangs, one that has not been heard from
  for a while must give a sign of life first; so it is for watches.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from msgspec import Struct

from orbitcontrol.errors import StoreUnreachable
from orbitcontrol.store import etcd_rpc_pb2 as rpc
from orbitcontrol.store.etcd_errors import cannot_connect, is_stale_token, translate
from orbitcontrol.store.etcd_member import Member, Metadata, being_cancelled, metadata, serialize
from orbitcontrol.store.settings import EtcdSettings

Answer = TypeVar("Answer", bound=Message)

_CONNECT_POLL = 0.005
_RETRY_PAUSE = 0.05
_LAST_ATTEMPT = 0.25
"""Seconds that an attempt is worth: with less time left, the error of the last one says more."""
_PATIENCE = 0.75
"""Seconds after which a call that may be repeated is given to another member as well."""
_REASON_TIMEOUT = 0.2
"""Seconds of a call's time that are kept for asking gRPC why there is no connection."""

Stream = grpc.aio.StreamStreamCall[Any, Any]
Send = Callable[[grpc.aio.Channel, Metadata, float], Awaitable[Answer]]
"""Makes one attempt over a channel, in so many seconds."""


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


class EtcdConnection:
    """Carries requests to a cluster."""

    def __init__(self, settings: EtcdSettings) -> None:
        self.address = settings.address
        self._settings = settings
        self._members = tuple(Member(endpoint, settings=settings) for endpoint in settings.endpoints)
        # Many daemons with the same settings do not all ask the same member.
        self._preferred = random.randrange(len(self._members))
        self._token: str | None = None
        self._closed = False

    async def call(self, method: Method[Answer], request: Message) -> Answer:
        """The answer to one request, within the call's time."""

        async def unary(channel: grpc.aio.Channel, metadata: Metadata, timeout: float) -> Answer:
            send = channel.unary_unary(
                method.path, request_serializer=serialize, response_deserializer=method.answer.FromString
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
        """An open stream of ``method`` and the token it was opened with; cancelled at the end.

        A member that ends it as unreachable, or keeps silent in it, is not the first choice any longer.
        """
        deadline = self._deadline()
        member = await self._living_member(deadline)
        token = await self._logged_in(member, deadline)
        stream = _stream(member.channel, method, metadata(token), None)
        try:
            yield stream, token
        except StoreUnreachable:
            self._pass_over(member)
            raise
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
        await asyncio.gather(*(member.close() for member in self._members))

    async def _carry(self, method: Method[Answer], send: Send[Answer]) -> Answer:
        """Makes attempts until one is answered, or may not be repeated, or the time is over."""
        deadline = self._deadline()
        if not method.writes and len(self._members) > 1:
            return await self._ask_several(method, send, deadline)
        while True:
            member = await (self._living_member if method.writes else self._member)(deadline)
            try:
                return await self._attempt(member, method, send, deadline)
            except StoreUnreachable:
                self._pass_over(member)
                if self._is_over(deadline):
                    raise
            await asyncio.sleep(_RETRY_PAUSE)

    async def _ask_several(self, method: Method[Answer], send: Send[Answer], deadline: float) -> Answer:
        """The first answer of any member; another one is asked as well when one fails or keeps silent."""
        asked: dict[asyncio.Task[Answer], Member] = {}
        try:
            while True:
                member = await self._member(deadline)
                attempt = self._attempt(member, method, send, deadline)
                asked[asyncio.create_task(attempt, name=f"etcd {method.path}")] = member
                patience = _PATIENCE if len(asked) < len(self._members) else None
                done, _ = await asyncio.wait(asked, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    self._pass_over(member)
                for task in done:
                    failed = asked.pop(task)
                    try:
                        return task.result()
                    except StoreUnreachable:
                        self._pass_over(failed)
                        if self._is_over(deadline):
                            raise
                if done:
                    await asyncio.sleep(_RETRY_PAUSE)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _attempt(
        self, member: Member, method: Method[Answer], send: Send[Answer], deadline: float
    ) -> Answer:
        """One request to one member. Raises StoreUnreachable only if it may be repeated."""
        logged_in_again = False
        while True:
            token = await self._logged_in(member, deadline)
            try:
                answer = await send(member.channel, metadata(token), max(deadline - _now(), 0.001))
            except grpc.aio.AioRpcError as error:
                code, details = error.code(), error.details() or ""
                if is_stale_token(code, details) and not logged_in_again and self.forget(token):
                    logged_in_again = True
                    continue
                raise translate(code, details, address=self.address, writes=method.writes) from error
            except asyncio.CancelledError:
                if being_cancelled():
                    raise
                raise translate(
                    grpc.StatusCode.CANCELLED, "closed", address=self.address, writes=method.writes
                ) from None
            member.heard()
            return answer

    def _is_over(self, deadline: float) -> bool:
        """True when there is no time, or no use, in another attempt."""
        return self._closed or _now() + _LAST_ATTEMPT >= deadline

    def _pass_over(self, member: Member) -> None:
        """Prefers the next member, if this one was preferred."""
        if self._members[self._preferred] is member:
            self._preferred = (self._preferred + 1) % len(self._members)

    async def _living_member(self, deadline: float) -> Member:
        """A connected member that has just given a sign of life."""
        while True:
            member = await self._member(deadline)
            try:
                await member.prove_alive()
            except StoreUnreachable:
                self._pass_over(member)
                if self._is_over(deadline):
                    raise
            else:
                return member
            await asyncio.sleep(_RETRY_PAUSE)

    async def _member(self, deadline: float) -> Member:
        """The first member with a connection standing, from the preferred one on."""
        order = (*self._members[self._preferred :], *self._members[: self._preferred])
        try:
            async with asyncio.timeout_at(deadline - _REASON_TIMEOUT):
                while not self._closed:
                    for member in order:
                        if member.connected():
                            return member
                    # gRPC's own wait for a change of state cannot be cancelled without leaving a trace.
                    await asyncio.sleep(_CONNECT_POLL)
        except TimeoutError:
            raise await self._not_connected() from None
        raise StoreUnreachable(f"{self.address}: closed")

    async def _not_connected(self) -> StoreUnreachable:
        """The error for a cluster that no connection leads to, with gRPC's reasons.

        The channels are thrown away: the next call looks names up anew and does not wait for a backoff.
        """
        reasons = await asyncio.gather(
            *(member.why_not_connected(within=_REASON_TIMEOUT) for member in self._members)
        )
        for member in self._members:
            if not self._closed and not member.connected():
                await member.close()
        return cannot_connect(reasons, address=self.address, encrypted=self._settings.encrypted)

    async def _logged_in(self, member: Member, deadline: float) -> str | None:
        """The token of the settings' user, from the member if there is none yet."""
        user, password = self._settings.user, self._settings.password
        if user is None or password is None:
            return None
        try:
            async with asyncio.timeout_at(deadline), member.login:
                if self._token is None:
                    login = member.channel.unary_unary(
                        _AUTHENTICATE.path,
                        request_serializer=serialize,
                        response_deserializer=_AUTHENTICATE.answer.FromString,
                    )
                    answer = await login(
                        rpc.AuthenticateRequest(name=user, password=password), metadata=metadata(None)
                    )
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
        method.path, request_serializer=serialize, response_deserializer=method.answer.FromString
    )
    return open_stream(requests, timeout=timeout, metadata=metadata)
