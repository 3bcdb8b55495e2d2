"""``verify``: the store against a tree, every difference by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orbitcontrol.codec.keys import Keys
from orbitcontrol.ops.stored_configuration import StoredConfiguration, read_configuration
from orbitcontrol.planning.imports import Change, plan_import
from orbitcontrol.ports import Store


async def verify(store: Store, keys: Keys, entries: Mapping[str, bytes]) -> tuple[str, ...]:
    """``compare`` with the store as it is."""
    return compare(await read_configuration(store, keys), entries)


def compare(stored: StoredConfiguration, entries: Mapping[str, bytes]) -> tuple[str, ...]:
    """A line for each difference, secrets hidden; none when the store has exactly this tree.

    Where a value differs, the store's comes first: ``services/web: Instances: 1 → 2``.
    """
    missing = () if stored.meta else ("meta: the store has no configuration; run `orbitctl import`",)
    plan = plan_import(stored.entries, entries)
    return (*missing, *(line for change in plan.changes for line in _lines(change)))


def _lines(change: Change) -> Iterator[str]:
    match change.kind:
        case "added":
            yield f"{change.key}: in the tree, not in the store"
        case "removed":
            yield f"{change.key}: in the store, not in the tree"
        case "changed":
            yield from (f"{change.key}: {detail}" for detail in change.details or ("differs",))
