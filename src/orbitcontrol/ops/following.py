"""Following a rollout: what each machine does for it, as soon as it does it, until it is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct

from orbitcontrol.codec.activity import Activity, parse_activity
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.errors import StoreError, UndecodableValue
from orbitcontrol.model.rollouts import Past, Rollout
from orbitcontrol.model.stored import KeyValue
from orbitcontrol.ops.watching import Seen, watch_until
from orbitcontrol.planning.rollout_sight import End, Sight, ending_of, sight_of
from orbitcontrol.ports import Store

T = TypeVar("T")


class Telling(Struct, frozen=True, kw_only=True):
    """Who is told what is to be seen, each second and at each change, and of a store that is away."""

    sight: Callable[[Sight], None]
    trouble: Callable[[StoreError], None]


class Followed(Struct, frozen=True, kw_only=True):
    """What was seen last, and how it ended: None when the time was over before."""

    sight: Sight
    end: End | None


async def follow(
    store: Store, keys: Keys, service: str, rollout: Rollout, *, timeout: float, telling: Telling
) -> Followed:
    """Follows a rollout until it is over, and one that fails on its way back as well."""
    follower = _Follower(keys, service, rollout, telling)
    await watch_until(
        store,
        keys.deployments_of(service),
        keys.service(service),
        keys.all_alive,
        look=follower.look,
        timeout=timeout,
        trouble=telling.trouble,
    )
    return Followed(sight=follower.sight, end=follower.end)


class _Follower:
    def __init__(self, keys: Keys, service: str, rollout: Rollout, telling: Telling) -> None:
        self.sight = Sight(rollout=rollout)
        self.end: End | None = None
        self._keys = keys
        self._service = service
        self._followed = rollout.id
        self._telling = telling

    def look(self, seen: Seen) -> bool:
        """True when it is over."""
        keys, service = self._keys, self._service
        deployments, alive = seen[keys.deployments_of(service)], seen[keys.all_alive]
        stored = deployments.get(keys.rollout(service))
        record = _read(stored, Rollout)
        if stored is not None and record is None:
            return False  # what cannot be read says nothing about its end
        history = {
            past.id: past
            for key, item in deployments.items()
            if key in keys.history(service) and (past := _read(item, Past)) is not None
        }
        if record is not None and self._followed in (record.id, record.revert_of):
            activity = parse_activity(keys, seen[keys.service(service)].values())
            here = {keys.below(key)[-1] for key in alive}
            self.sight = sight_of(record, activity.get(service, Activity()), alive=here)
            self._telling.sight(self.sight)
        self.end = ending_of(self._followed, record, history)
        return self.end is not None


def _read(item: KeyValue | None, expected: type[T]) -> T | None:
    """None where there is nothing, or nothing that can be read."""
    if item is None:
        return None
    try:
        return decode(item.value, expected, key=item.key)
    except UndecodableValue:
        return None
