"""Where a store is, as people write it, and what is needed to reach it.

Kept apart from the adapters so that a command line can be checked without loading either of them.
"""

from __future__ import annotations

from urllib.parse import unquote

from msgspec import Struct

from orbitcontrol.errors import UsageError

CALL_TIMEOUT = 3.0
"""Seconds after which any call to a store has ended."""

_DEFAULT_PORT = 2379
_FORMS = "etcd://HOST:2379[,HOST:2379…], http://HOST:2379, https://HOST:2379 or sqlite:///PATH"


class EtcdSettings(Struct, frozen=True, kw_only=True):
    """How to reach an etcd cluster. ``endpoints`` are ``host:port``, IPv6 hosts in brackets.

    ``ca``, ``cert`` and ``key`` are paths of PEM files; any of them, or ``tls``, turns TLS on, without
    ``ca`` against the certificate authorities that gRPC ships.
    """

    endpoints: tuple[str, ...]
    tls: bool = False
    user: str | None = None
    password: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    call_timeout: float = CALL_TIMEOUT

    def __post_init__(self) -> None:
        if (self.user is None) != (self.password is None):
            raise UsageError("etcd needs a user and a password together, or neither")
        if (self.cert is None) != (self.key is None):
            raise UsageError("etcd needs a client certificate and its key together, or neither")

    def __repr__(self) -> str:
        return f"EtcdSettings({self.address!r})"  # without the password: it may end in a log

    @property
    def encrypted(self) -> bool:
        """True when the connection uses TLS."""
        return self.tls or any((self.ca, self.cert, self.key))

    @property
    def address(self) -> str:
        """The cluster as messages name it."""
        return f"etcd://{','.join(self.endpoints)}"


class EtcdAddress(Struct, frozen=True):
    """An etcd URL taken apart."""

    endpoints: tuple[str, ...]
    tls: bool


class SqliteAddress(Struct, frozen=True):
    """A SQLite URL taken apart: the file's absolute path."""

    path: str


def parse_address(url: str) -> EtcdAddress | SqliteAddress:
    """The parts of a store URL. Raises UsageError naming the accepted forms.

    The ``http`` and ``https`` spellings may repeat the scheme: ``http://a:2379,http://b:2379``.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "sqlite":
        path = unquote(rest)
        if not path.startswith("/") or path.endswith("/"):
            raise _wrong(url, "the path must be absolute and name a file")
        return SqliteAddress(path)
    if separator and scheme in {"etcd", "http", "https"}:
        parts = [part.strip().removeprefix(f"{scheme}://").rstrip("/") for part in rest.split(",")]
        return EtcdAddress(tuple(_endpoint(url, part) for part in parts), tls=scheme == "https")
    raise _wrong(url, "unknown kind of store")


def _endpoint(url: str, part: str) -> str:
    """``host:port`` of one member, the port filled in."""
    if any(character in part for character in "/@?# "):
        raise _wrong(url, f"{part!r} is not HOST:PORT")
    if part.endswith("]") or ":" not in part:
        host, port = part, str(_DEFAULT_PORT)
    else:
        host, _, port = part.rpartition(":")
    if not host or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        raise _wrong(url, f"{part!r} is not HOST:PORT (an IPv6 host is written in brackets)")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise _wrong(url, f"{part!r} has no valid port")
    return f"{host}:{port}"


def _wrong(url: str, reason: str) -> UsageError:
    return UsageError(f"store {url!r}: {reason}; a store is written {_FORMS}")
