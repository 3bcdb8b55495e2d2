from __future__ import annotations

import grpc
import pytest

from orbitcontrol.errors import (
    Compacted,
    LeaseLost,
    StoreAmbiguous,
    StoreError,
    StoreRefused,
    StoreTooLarge,
    StoreUnreachable,
)
from orbitcontrol.store.etcd_errors import is_stale_token, last_cause, translate

C = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "details", "expected", "words"),
    [
        (C.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", StoreRefused, "alarm disarm"),
        (C.PERMISSION_DENIED, "etcdserver: permission denied", StoreRefused, "permission denied"),
        (C.INVALID_ARGUMENT, "etcdserver: user name is empty", StoreRefused, "a user and a password"),
        (
            C.INVALID_ARGUMENT,
            "etcdserver: authentication failed, invalid user ID or password",
            StoreRefused,
            "invalid user",
        ),
        (C.UNAUTHENTICATED, "etcdserver: invalid auth token", StoreRefused, "invalid auth token"),
        (C.NOT_FOUND, "etcdserver: requested lease not found", LeaseLost, "expired"),
        (C.INVALID_ARGUMENT, "etcdserver: request is too large", StoreTooLarge, "too large"),
        (C.INVALID_ARGUMENT, "etcdserver: too many operations in txn request", StoreTooLarge, "too many"),
        (C.RESOURCE_EXHAUSTED, "grpc: received message larger than max (3 vs. 2)", StoreTooLarge, "larger"),
        (C.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", StoreRefused, "duplicate"),
        (C.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Compacted, "compacted"),
        (C.UNIMPLEMENTED, "", StoreRefused, "UNIMPLEMENTED"),
    ],
)
def test_an_answer_means_the_same_for_reads_and_writes(
    code: grpc.StatusCode, details: str, expected: type[StoreError], words: str
) -> None:
    for writes in (False, True):
        error = translate(code, details, address="etcd://a:1", writes=writes)
        assert type(error) is expected
        assert str(error).startswith("etcd://a:1: ")
        assert words in str(error)
        assert "etcdserver" not in str(error)


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (C.UNAVAILABLE, "Socket closed"),
        (C.UNAVAILABLE, "etcdserver: leader changed"),
        (C.UNAVAILABLE, "etcdserver: request timed out"),
        (C.DEADLINE_EXCEEDED, "Deadline Exceeded"),
        (C.UNKNOWN, "Stream removed"),
        (C.INTERNAL, "RST_STREAM"),
        (C.CANCELLED, "closed"),
    ],
)
def test_silence_leaves_open_whether_a_write_happened(code: grpc.StatusCode, details: str) -> None:
    assert type(translate(code, details, address="a", writes=True)) is StoreAmbiguous
    assert type(translate(code, details, address="a", writes=False)) is StoreUnreachable


@pytest.mark.parametrize(
    ("code", "details", "stale"),
    [
        (C.UNAUTHENTICATED, "etcdserver: invalid auth token", True),
        (C.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", True),
        (C.PERMISSION_DENIED, "etcdserver: permission denied", False),
        (C.UNAVAILABLE, "Socket closed", False),
    ],
)
def test_a_token_is_renewed_only_when_etcd_did_not_accept_it(
    code: grpc.StatusCode, details: str, *, stale: bool
) -> None:
    assert is_stale_token(code, details) is stale


def test_of_grpcs_nested_reasons_the_innermost_is_told() -> None:
    details = (
        "connections to all backends failing; last error: UNKNOWN: ipv4:127.0.0.1:1: "
        "Failed to connect to remote host: Connection refused"
    )
    assert last_cause(details) == "ipv4:127.0.0.1:1: Failed to connect to remote host: Connection refused"
    assert last_cause("Socket closed") == "Socket closed"
