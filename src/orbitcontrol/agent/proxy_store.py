"""The store as a load balancer writes to it."""

from __future__ import annotations

from msgspec import Struct

from orbitcontrol.codec.keys import Keys
from orbitcontrol.ports import Store


class BalancerStore(Struct, frozen=True, kw_only=True):
    """The store, and as whom this load balancer writes there.

    ``address`` is its machine's, ``check`` the ``host:port`` where its daemon answers.
    """

    store: Store
    keys: Keys
    address: str
    check: str
