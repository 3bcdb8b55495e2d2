"""Keys below ``services/`` to what the machines do about each service: endpoints, turns, confirmations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from msgspec import Struct, field

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.errors import UndecodableValue
from orbitcontrol.model.rollouts import Ack, LoadBalancer, Progress, Slot
from orbitcontrol.model.state import Endpoint
from orbitcontrol.model.stored import KeyValue

T = TypeVar("T")


class Activity(Struct, kw_only=True):
    """One service: ``endpoints`` by ``host:port``, ``acks`` by endpoint id and load balancer.

    ``balancers`` and ``progress`` are by machine, ``slots`` by number. ``broken`` says by key what cannot
    be read; it is left out.
    """

    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    balancers: dict[str, LoadBalancer] = field(default_factory=dict)
    acks: dict[str, dict[str, Ack]] = field(default_factory=dict)
    slots: dict[str, Slot] = field(default_factory=dict)
    progress: dict[str, Progress] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


def parse_activity(keys: Keys, items: Iterable[KeyValue]) -> dict[str, Activity]:
    """The activity of each service that has a key; keys of other kinds are passed over."""
    found: dict[str, Activity] = {}
    for item in items:
        match keys.below(item.key):
            case ("services", service, *rest):
                activity = found.setdefault(service, Activity())
                try:
                    _take(activity, rest, item)
                except UndecodableValue as error:
                    activity.broken[item.key] = str(error)
            case _:
                pass
    return found


def _take(activity: Activity, rest: list[str], item: KeyValue) -> None:
    match rest:
        case ["endpoints", address]:
            activity.endpoints[address] = _read(item, Endpoint)
        case ["loadbalancers", machine]:
            activity.balancers[machine] = _read(item, LoadBalancer)
        case ["acks", endpoint, machine]:
            activity.acks.setdefault(endpoint, {})[machine] = _read(item, Ack)
        case ["slots", number]:
            activity.slots[number] = _read(item, Slot)
        case ["progress", machine]:
            activity.progress[machine] = _read(item, Progress)
        case _:
            pass


def _read(item: KeyValue, expected: type[T]) -> T:
    return decode(item.value, expected, key=item.key)
