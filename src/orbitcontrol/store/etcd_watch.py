"""Watching etcd without losing, inventing or silently missing anything.

The protocol is etcd's Watch stream: one stream a watch, so that leaving the watch ends it on the server too.
Three of its properties shape this module:

* A large answer comes in fragments, and a commit's events may come in any number of answers; only
  whole revisions are handed on.
* A server that hangs looks like a server with nothing to tell. While a consumer waits and nothing
  comes, a second, short-lived watch is created on the same stream as a sign of life: it is always answered at
  once. (etcd's progress request is not: newer versions leave it unanswered while a watch starts above
  the store's revision, which is the usual case after a listing; see etcd's ``progressIfSync``.)
* A store that was restored from a backup accepts a watch above its own revision and never says a word.
  Such a watch is refused here with ``Compacted``: what was seen before is not this store's past.

Messages are read only while the consumer asks, one ahead at most; gRPC's flow control holds the rest
back, and a consumer that takes its time is no sign of a dead server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from orbitcontrol.errors import Compacted, StoreError, StoreRefused, StoreUnreachable
from orbitcontrol.model.stored import Changed, Changes, Range
from orbitcontrol.store import etcd_rpc_pb2 as rpc
from orbitcontrol.store.etcd_connection import RANGE, WATCH, EtcdConnection, Stream
from orbitcontrol.store.etcd_errors import translate
from orbitcontrol.store.etcd_messages import key_value
from orbitcontrol.store.transaction import key_text, range_bytes

_WATCH_ID = 1
_PROBE_ID = 2

_DENIALS = ("permission denied", "auth token", "auth store", "user name is empty")
"""Parts of etcd's reasons for not allowing a watch; it sends them as text only."""

_STAGES = (4.0, 1.5, 0.5)
"""Seconds of silence before a probe, then for its answer, and once more for our own process being slow."""


@asynccontextmanager
async def watch(
    connection: EtcdConnection, range: Range, *, after: int, timeout: float
) -> AsyncIterator[AsyncIterator[Changes]]:
    """Changes of the range above revision ``after``; the watch exists on the server when this is entered."""
    create = _create_request(range, watch_id=_WATCH_ID, start_revision=after + 1)
    probe = _create_request(Range.single(range.start), watch_id=_PROBE_ID, start_revision=0)
    for last_try in (False, True):
        async with connection.stream(WATCH) as (stream, token):
            conversation = _Conversation(stream, probe=probe, address=connection.address)
            try:
                try:
                    revision = await conversation.begin(create, timeout=timeout)
                except StoreRefused:
                    # An expired token and a missing permission can look the same here.
                    if connection.forget(token) and not last_try:
                        continue
                    raise
                if revision < after:
                    await _refuse_another_history(connection, range, after=after)
                yield _Watch(conversation)
                return
            finally:
                await conversation.end()


class _Watch(AsyncIterator[Changes]):
    """Groups a conversation's events by revision. After an error it raises the same one again."""

    def __init__(self, conversation: _Conversation) -> None:
        self._conversation = conversation
        self._whole: deque[Changes] = deque()
        self._partial: list[Changed] = []
        self._partial_revision = 0
        self._error: StoreError | None = None

    async def __anext__(self) -> Changes:
        if self._error is not None:
            raise self._error
        try:
            while not self._whole:
                self._take(await self._conversation.receive())
        except StoreError as error:
            self._error = error
            raise
        return self._whole.popleft()

    def _take(self, response: rpc.WatchResponse) -> None:
        """Adds a response's events; a revision is whole when the next begins or no fragment follows."""
        for event in response.events:
            if event.kv.mod_revision != self._partial_revision:
                self._flush()
                self._partial_revision = event.kv.mod_revision
            deleted = event.type == rpc.Event.DELETE
            self._partial.append(Changed(key_text(event.kv.key), None if deleted else key_value(event.kv)))
        if not response.fragment:
            self._flush()

    def _flush(self) -> None:
        if self._partial:
            self._whole.append(Changes(self._partial_revision, tuple(self._partial)))
            self._partial = []


class _Conversation:
    """A Watch stream with one watch on it, kept under suspicion while it is silent.

    A consumer may stop waiting in ``receive`` at any time and come back later: gRPC ends a stream whose
    read is cancelled, so the read lives in a task of its own.
    """

    def __init__(self, stream: Stream, *, probe: rpc.WatchRequest, address: str) -> None:
        self._stream = stream
        self._probe = probe
        self._address = address
        self._reading: asyncio.Task[object] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._stage = 0
        self._patience_ends = 0.0

    async def begin(self, create: rpc.WatchRequest, *, timeout: float) -> int:
        """Creates the watch; the store's revision then."""
        self._write(create)
        try:
            async with asyncio.timeout(timeout):
                answer = await self._next()
        except TimeoutError:
            raise StoreUnreachable(f"{self._address}: no answer to a watch in time") from None
        if answer.canceled:
            raise self._ended(answer)
        return answer.header.revision

    async def receive(self) -> rpc.WatchResponse:
        """The next answer that belongs to the watch."""
        while True:
            answer = await self._next()
            if answer.watch_id == _PROBE_ID:
                if answer.created and not answer.canceled:
                    cancel = rpc.WatchCancelRequest(watch_id=_PROBE_ID)
                    self._write(rpc.WatchRequest(cancel_request=cancel))
            elif answer.watch_id == _WATCH_ID:
                if answer.canceled:
                    raise self._ended(answer)
                return answer

    async def end(self) -> None:
        """Ends the stream here and on the server."""
        self._stream.cancel()
        tasks = [task for task in (self._reading, self._writing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _next(self) -> rpc.WatchResponse:
        """The next answer of any kind; StoreUnreachable when none comes and probes stay unanswered."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._stream.read(), name="etcd watch read")
            self._enter_stage(0)
        while not self._reading.done():
            patience = self._patience_ends - asyncio.get_running_loop().time()
            await asyncio.wait({self._reading}, timeout=max(patience, 0))
            if not self._reading.done() and asyncio.get_running_loop().time() >= self._patience_ends:
                self._grow_suspicious()
        reading, self._reading = self._reading, None
        if reading.cancelled():
            raise StoreUnreachable(f"{self._address}: closed")
        try:
            answer = reading.result()
        except grpc.aio.AioRpcError as error:
            raise self._broken(error.code(), error.details()) from error
        if not isinstance(answer, rpc.WatchResponse):
            raise self._broken(await self._stream.code(), await self._stream.details())
        return answer

    def _grow_suspicious(self) -> None:
        if self._stage + 1 == len(_STAGES):
            raise StoreUnreachable(
                f"{self._address}: the watch fell silent: the server gives no sign of life"
            )
        if self._stage == 0:
            self._write(self._probe)
        self._enter_stage(self._stage + 1)

    def _enter_stage(self, stage: int) -> None:
        self._stage = stage
        self._patience_ends = asyncio.get_running_loop().time() + _STAGES[stage]

    def _write(self, request: rpc.WatchRequest) -> None:
        """Sends a request in the background, after the one before; a failure shows in the next read."""
        before = self._writing

        async def write() -> None:
            if before is not None:
                await asyncio.wait({before})
            await self._stream.write(request)

        self._writing = asyncio.create_task(write(), name="etcd watch write")
        self._writing.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _broken(self, code: grpc.StatusCode, details: str | None) -> StoreError:
        if code is grpc.StatusCode.OK:
            return StoreUnreachable(f"{self._address}: the server ended the watch")
        return translate(code, details or "", address=self._address, writes=False)

    def _ended(self, answer: rpc.WatchResponse) -> StoreError:
        if answer.compact_revision:
            return Compacted(
                f"{self._address}: changes before revision {answer.compact_revision} are gone: list again"
            )
        reason = answer.cancel_reason
        if any(word in reason for word in _DENIALS):
            return translate(grpc.StatusCode.PERMISSION_DENIED, reason, address=self._address, writes=False)
        return StoreUnreachable(f"{self._address}: the server ended the watch: {reason or 'no reason given'}")


def _create_request(range: Range, *, watch_id: int, start_revision: int) -> rpc.WatchRequest:
    start, end = range_bytes(range)
    return rpc.WatchRequest(
        create_request=rpc.WatchCreateRequest(
            key=start, range_end=end, start_revision=start_revision, watch_id=watch_id, fragment=True
        )
    )


async def _refuse_another_history(connection: EtcdConnection, range: Range, *, after: int) -> None:
    """Raises Compacted when the store never was at revision ``after``.

    The member that serves the watch may only be behind the others: a linearizable read decides.
    """
    start, end = range_bytes(range)
    now = await connection.call(RANGE, rpc.RangeRequest(key=start, range_end=end, count_only=True))
    if now.header.revision < after:
        raise Compacted(
            f"{connection.address}: the store is at revision {now.header.revision}, it was seen at {after}: "
            "it was restored or replaced, list again"
        )
