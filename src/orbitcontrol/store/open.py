"""From a store's URL to the store.

An adapter, and gRPC or SQLite with it, is loaded only when it is asked for.
"""

from __future__ import annotations

import os

from orbitcontrol.errors import UsageError
from orbitcontrol.ports import Store
from orbitcontrol.store.settings import (
    CALL_TIMEOUT,
    EtcdAddress,
    EtcdSettings,
    SqliteAddress,
    parse_address,
)


def open_store(
    url: str,
    *,
    user: str | None = None,
    password: str | None = None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    call_timeout: float = CALL_TIMEOUT,
) -> Store:
    """The store at ``url``: ``etcd://host:2379,host2:2379``, ``http(s)://host:2379`` or ``sqlite:///path``.

    Nothing is contacted or created yet: that happens in the first call. The other arguments are etcd's
    (see ``EtcdSettings``); giving one for a SQLite store is a mistake that is told. Raises UsageError.
    """
    match parse_address(url):
        case EtcdAddress(endpoints=endpoints, tls=tls):
            # gRPC writes to standard error on its own otherwise; what matters is in our errors.
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")
            from orbitcontrol.store.etcd import EtcdStore  # noqa: PLC0415 -- loading gRPC costs 70 ms

            return EtcdStore(
                EtcdSettings(
                    endpoints=endpoints,
                    tls=tls,
                    user=user,
                    password=password,
                    ca=ca,
                    cert=cert,
                    key=key,
                    call_timeout=call_timeout,
                )
            )
        case SqliteAddress(path=path):
            if any((user, password, ca, cert, key)):
                raise UsageError(f"store {url!r}: a SQLite store takes no user and no certificates")
            from orbitcontrol.store.sqlite import SqliteStore  # noqa: PLC0415 -- only where it is used

            return SqliteStore(path, call_timeout=call_timeout)
