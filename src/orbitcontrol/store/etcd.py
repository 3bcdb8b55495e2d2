"""The store in etcd v3, over plain gRPC.

Why not one of the packaged clients: docs/decisions/0002-etcd-client.md. The connection is in
``etcd_connection``, the watch in ``etcd_watch``; here is what each call of the protocol means in etcd.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

from orbitcontrol.errors import LeaseLost, StoreConflict
from orbitcontrol.model.stored import (
    ETCD_LIMITS,
    Absent,
    Changes,
    Compare,
    KeyValue,
    Limits,
    Operation,
    Range,
    Reading,
    Unchanged,
)
from orbitcontrol.store import etcd_rpc_pb2 as rpc
from orbitcontrol.store.etcd_connection import (
    COMMIT,
    GRANT,
    KEEP_ALIVE,
    RANGE,
    READ,
    REVOKE,
    TIME_TO_LIVE,
    EtcdConnection,
)
from orbitcontrol.store.etcd_messages import compare, key_value, operation, range_request
from orbitcontrol.store.etcd_watch import watch
from orbitcontrol.store.settings import EtcdSettings
from orbitcontrol.store.transaction import check_transaction, key_bytes, key_text

_NAMED_KEYS = 3


class EtcdStore:
    """``Store`` on an etcd cluster of version 3.4 or later."""

    def __init__(self, settings: EtcdSettings) -> None:
        self._settings = settings
        self._connection = EtcdConnection(settings)

    @property
    def address(self) -> str:
        return self._settings.address

    @property
    def limits(self) -> Limits:
        return ETCD_LIMITS

    async def get(self, key: str) -> KeyValue | None:
        answer = await self._connection.call(RANGE, rpc.RangeRequest(key=key_bytes(key)))
        return key_value(answer.kvs[0]) if answer.kvs else None

    async def read(self, *ranges: Range) -> Reading:
        revision = 0
        found: list[tuple[KeyValue, ...]] = []
        # More ranges than one transaction takes: the rest is read at the revision of the first part.
        for start in range(0, max(len(ranges), 1), ETCD_LIMITS.operations):
            part = ranges[start : start + ETCD_LIMITS.operations]
            requests = [rpc.RequestOp(request_range=range_request(each, revision=revision)) for each in part]
            answer = await self._connection.call(READ, rpc.TxnRequest(success=requests))
            revision = revision or answer.header.revision
            found += [tuple(map(key_value, response.response_range.kvs)) for response in answer.responses]
        return Reading(revision, tuple(found))

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> int:
        check_transaction(compares, operations, limits=self.limits, address=self.address)
        request = rpc.TxnRequest(compare=map(compare, compares), success=map(operation, operations))
        answer = await self._connection.call(COMMIT, request)
        if not answer.succeeded:
            raise StoreConflict(f"{self.address}: changed by somebody else meanwhile: {_names(compares)}")
        return answer.header.revision

    def watch(self, range: Range, *, after: int) -> AbstractAsyncContextManager[AsyncIterator[Changes]]:
        return watch(self._connection, range, after=after, timeout=self._settings.call_timeout)

    async def grant(self, ttl: float) -> int:
        # etcd counts whole seconds; a cluster has a shortest lease of its own (1.5 election time-outs).
        answer = await self._connection.call(GRANT, rpc.LeaseGrantRequest(TTL=math.ceil(ttl)))
        return answer.ID

    async def keep_alive(self, lease: int) -> float:
        asked_at = asyncio.get_running_loop().time()
        answer = await self._connection.exchange(KEEP_ALIVE, rpc.LeaseKeepAliveRequest(ID=lease))
        if answer.TTL <= 0:
            raise self._lost(lease)
        # The server began to count at some point since we asked: the earliest is the safe one.
        return answer.TTL - (asyncio.get_running_loop().time() - asked_at)

    async def lease_keys(self, lease: int) -> frozenset[str]:
        answer = await self._connection.call(TIME_TO_LIVE, rpc.LeaseTimeToLiveRequest(ID=lease, keys=True))
        if answer.TTL < 0:
            raise self._lost(lease)
        return frozenset(map(key_text, answer.keys))

    async def revoke(self, lease: int) -> None:
        try:
            await self._connection.call(REVOKE, rpc.LeaseRevokeRequest(ID=lease))
        except LeaseLost:
            return

    async def close(self) -> None:
        await self._connection.close()

    def _lost(self, lease: int) -> LeaseLost:
        return LeaseLost(f"{self.address}: lease {lease:x} has expired or was revoked")


def _names(compares: Sequence[Compare]) -> str:
    """The compared keys; etcd does not say which of them it was."""
    names = [_name(comparison) for comparison in compares]
    more = len(names) - _NAMED_KEYS
    return ", ".join(names[:_NAMED_KEYS]) + (f" or one of {more} more" if more > 0 else "")


def _name(comparison: Compare) -> str:
    match comparison:
        case Absent(range=range):
            return range.start
        case Unchanged(key=key):
            return key
