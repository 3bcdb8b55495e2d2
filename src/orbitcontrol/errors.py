"""The errors a person can meet, and the exit code each one ends a command with.

    OrbitError                      1  something failed; the message says where, what, what to do
    ├── UsageError                  2  the command line or its settings are wrong
    ├── TreeError                   1  a configuration tree has problems (carries every one of them)
    ├── StoreError                  1
    │   ├── StoreUnreachable        1  no answer in time, or none at all; nothing was written
    │   ├── StoreAmbiguous          1  the connection ended in a commit: it may have happened, or not
    │   ├── StoreRefused            1  wrong credentials, no permission, no space
    │   ├── StoreConflict           1  a compared key had changed; nothing was written
    │   ├── StoreTooLarge           1  the transaction is beyond the store's limits; nothing was written
    │   ├── LeaseLost               1  the lease is unknown to the store: expired or revoked
    │   └── Compacted               1  a watch asked for changes that the store no longer has
    ├── UndecodableValue            1  a store value is not what its key promises
    ├── DockerError                 1
    │   ├── DockerUnreachable       1  no engine answers at the address
    │   └── PortTaken               1  a host port that a container wants is in use
    ├── HAProxyError                1
    │   └── HAProxyRejected         1  HAProxy refused a configuration (carries its messages)
    └── TemplateError               1  a template does not render (carries the line)

A message is one or a few lines: where, what is wrong, what to do. Causes are chained with ``from``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class OrbitError(Exception):
    """Base of every error with a message meant for a person."""

    exit_code: ClassVar[int] = 1


class UsageError(OrbitError):
    """Wrong command line, environment variable or configuration file."""

    exit_code: ClassVar[int] = 2


class TreeError(OrbitError):
    """A configuration tree cannot be used; ``problems`` holds one line for each thing to mend."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class StoreError(OrbitError):
    """The store could not do what was asked."""


class StoreUnreachable(StoreError):
    """No answer from the store within the time allowed. Nothing was written."""


class StoreAmbiguous(StoreError):
    """The connection was lost inside a commit: read before trying again."""


class StoreRefused(StoreError):
    """The store answered and said no: credentials, permissions, or an alarm such as NOSPACE."""


class StoreConflict(StoreError):
    """A comparison of the transaction did not hold. Nothing was written."""


class StoreTooLarge(StoreError):
    """More operations or bytes than the store takes in one transaction. Nothing was written."""


class LeaseLost(StoreError):
    """The lease expired or was revoked; the keys under it are gone."""


class Compacted(StoreError):
    """The changes after the asked-for revision were discarded: list again and compare."""


class UndecodableValue(OrbitError):
    """A value in the store cannot be read as what its key says it is."""


class DockerError(OrbitError):
    """The Docker engine refused or failed."""


class DockerUnreachable(DockerError):
    """No Docker engine answers at the configured address."""


class PortTaken(DockerError):
    """A container cannot be started because something else on the machine has its host port."""


class HAProxyError(OrbitError):
    """HAProxy could not be started, reached or reloaded."""


class HAProxyRejected(HAProxyError):
    """HAProxy refused a configuration. Each message is already mapped to the template where it can be."""

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = tuple(messages)


class TemplateError(OrbitError):
    """A template does not render. ``line`` counts from 1; None where no line can be named."""

    def __init__(self, message: str, *, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line
