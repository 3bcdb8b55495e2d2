"""Orbit's vocabulary as etcd's protobuf messages, and back."""

from __future__ import annotations

from orbitcontrol.model.stored import Absent, Compare, Delete, KeyValue, Operation, Put, Range, Unchanged
from orbitcontrol.store import etcd_rpc_pb2 as rpc
from orbitcontrol.store.transaction import key_bytes, key_text, range_bytes


def range_request(range: Range, *, revision: int = 0) -> rpc.RangeRequest:
    """Asks for a range's keys; revision 0 is the newest."""
    start, end = range_bytes(range)
    return rpc.RangeRequest(key=start, range_end=end, revision=revision)


def compare(comparison: Compare) -> rpc.Compare:
    """A comparison; etcd holds a comparison over a range for true when no key of it fails it."""
    match comparison:
        case Absent(range=range):
            start, end = range_bytes(range)
            return rpc.Compare(
                result=rpc.Compare.EQUAL,
                target=rpc.Compare.CREATE,
                key=start,
                range_end=end,
                create_revision=0,
            )
        case Unchanged(key=key, mod_revision=mod_revision):
            return rpc.Compare(
                result=rpc.Compare.EQUAL,
                target=rpc.Compare.MOD,
                key=key_bytes(key),
                mod_revision=mod_revision,
            )


def operation(change: Operation) -> rpc.RequestOp:
    """One change of a transaction."""
    match change:
        case Put(key=key, value=value, lease=lease):
            return rpc.RequestOp(request_put=rpc.PutRequest(key=key_bytes(key), value=value, lease=lease))
        case Delete(range=range):
            start, end = range_bytes(range)
            return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=start, range_end=end))


def key_value(kv: rpc.KeyValue) -> KeyValue:
    """A key as etcd sent it."""
    return KeyValue(key=key_text(kv.key), value=kv.value, mod_revision=kv.mod_revision, lease=kv.lease)
