"""From etcd's and gRPC's answers to Orbit's errors.

What matters to a caller is whether something was written. etcd says no before it writes anything; but a
connection that ends, a deadline that passes, or a status made up by gRPC itself says nothing about a
transaction that was on its way.

The texts are those of etcd's api/v3rpc/rpctypes/error.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import grpc

from orbitcontrol.errors import (
    Compacted,
    LeaseLost,
    StoreAmbiguous,
    StoreError,
    StoreRefused,
    StoreTooLarge,
    StoreUnreachable,
)

_SILENT = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    }
)
"""Codes after which it is open whether the request was carried out."""

_TOO_LARGE = ("request is too large", "too many operations", "message larger than max")


_NOTHING_DONE = (
    "etcdserver: no leader",
    "raft proposal dropped",
    "too many requests",
    "not supported for learner",
)
"""Parts of refusals that come before anything is done, and that pass: another member may be asked."""


def translate(code: grpc.StatusCode, details: str, *, address: str, writes: bool) -> StoreError:
    """The error to raise for a call that ended with ``code``; ``writes`` for one that may change keys."""
    if any(text in details for text in _NOTHING_DONE):
        return StoreUnreachable(f"{address}: {_plain(details)}{_advice(details)}")
    if code not in _SILENT:
        return _refusal(code, details, address=address)
    if writes:
        return StoreAmbiguous(
            f"{address}: no answer to a transaction ({_reason(code, details)}): "
            "it may have happened or not, look before trying again"
        )
    return StoreUnreachable(f"{address}: {_reason(code, details)}")


def _refusal(code: grpc.StatusCode, details: str, *, address: str) -> StoreError:
    """The error for an answer in which etcd says no, and has written nothing."""
    if any(text in details for text in _TOO_LARGE):
        return StoreTooLarge(f"{address}: {_plain(details)}")
    if code is grpc.StatusCode.NOT_FOUND and "lease not found" in details:
        return LeaseLost(f"{address}: the lease has expired or was revoked")
    if code is grpc.StatusCode.OUT_OF_RANGE and "compacted" in details:
        return Compacted(f"{address}: {_plain(details)}")
    return StoreRefused(f"{address}: {_plain(details) or code.name}{_advice(details)}")


def is_stale_token(code: grpc.StatusCode, details: str) -> bool:
    """True when logging in again may help; etcd checks that before it carries anything out."""
    return (
        code is grpc.StatusCode.UNAUTHENTICATED
        or "invalid auth token" in details
        or "revision of auth store is old" in details
    )


def _reason(code: grpc.StatusCode, details: str) -> str:
    """The last cause that gRPC names, without its layers around it."""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer in time"
    if details == "Internal error from Core":  # gRPC's for a stream that was refused before it was open
        return "the server ended the stream at once"
    return _plain(last_cause(details)) or code.name


def cannot_connect(causes: Iterable[str], *, address: str, encrypted: bool) -> StoreUnreachable:
    """The error for a cluster that no connection leads to; ``causes`` are those of its members."""
    told = dict.fromkeys(_explained(cause, encrypted=encrypted) for cause in causes)
    return StoreUnreachable(f"{address}: cannot connect: {'; '.join(told)}")


def _explained(cause: str, *, encrypted: bool) -> str:
    """gRPC's words for why there is no connection, in words that say what to do."""
    if "CERTIFICATE_VERIFY_FAILED" in cause:
        return "its certificate is not signed by the given authority, or is for another name"
    if encrypted and ("TSI_" in cause or "Handshake read failed" in cause):
        return cause + " (does the server speak TLS, and does it want a client certificate?)"
    if not encrypted and "Socket closed" in cause:
        return cause + " (does the server want TLS? Then give it a CA certificate)"
    return cause


def last_cause(details: str) -> str:
    """What went wrong at the bottom of gRPC's nested text: ``… last error: UNKNOWN: ipv4:…: refused``."""
    return re.sub(r"^[A-Z_]+: ", "", details.rpartition("last error: ")[2])


def _plain(details: str) -> str:
    """etcd's own words; a watch's reason has gRPC's around them."""
    return details.rpartition("etcdserver: ")[2].strip()


def _advice(details: str) -> str:
    if "database space exceeded" in details:
        return " (NOSPACE alarm: compact and defragment etcd, then `etcdctl alarm disarm`)"
    if "no leader" in details:
        return " (too few members of the cluster are up, or they do not reach each other)"
    if "user name is empty" in details:
        return " (this etcd asks for a user and a password)"
    if "permission denied" in details:
        return " (give the etcd user's role read and write access to the base path)"
    return ""
