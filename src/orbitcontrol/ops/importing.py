"""``plan`` and ``import``: a tree into the store, all of it or nothing.

    planned = await plan(store, keys, tree.entries)     # reads, compares, writes nothing
    …show planned.plan, ask…
    result = await apply(store, keys, planned, stamp)   # one transaction

Between the two somebody else may import. The transaction compares the ``config/meta`` that the plan
was made from, so the second of two imports is refused whole and told who was first.

When the connection breaks inside the commit, nobody knows whether it happened. The same transaction is
then sent again: if the first one did happen, its own comparison refuses the second, and the random
``Import`` id in ``config/meta`` says whose it was.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.errors import OrbitError, StoreAmbiguous, StoreConflict, StoreTooLarge
from orbitcontrol.model.state import ConfigMeta, Source
from orbitcontrol.model.stored import Limits
from orbitcontrol.ops.stored_configuration import StoredConfiguration, read_configuration
from orbitcontrol.planning.impact import Impact, impact_of
from orbitcontrol.planning.imports import (
    ImportPlan,
    Transaction,
    import_transaction,
    next_meta,
    plan_import,
)
from orbitcontrol.ports import Store

_ATTEMPTS = 3


class PlannedImport(Struct, frozen=True, kw_only=True):
    """What an import would do to the store as it was read."""

    stored: StoredConfiguration
    plan: ImportPlan
    impact: Impact

    @property
    def is_needed(self) -> bool:
        """False when the store has exactly this configuration already."""
        return not self.plan.is_empty or self.stored.meta is None


class Stamp(Struct, frozen=True, kw_only=True):
    """Who imports what, when. ``epoch`` and ``import_id`` are random; ``now`` is RFC 3339 in UTC."""

    now: str
    user: str
    epoch: str
    import_id: str
    source: Source


class ImportResult(Struct, frozen=True, kw_only=True):
    """``meta`` as the store has it now; ``written`` is false when there was nothing to do."""

    meta: ConfigMeta
    written: bool


async def plan(store: Store, keys: Keys, entries: Mapping[str, bytes]) -> PlannedImport:
    """Compares a tree's entries with the store. Writes nothing."""
    stored = await read_configuration(store, keys)
    changes = plan_import(stored.entries, entries)
    impact = impact_of(changes, current=stored.entries, wanted=entries, machines=stored.machines)
    return PlannedImport(stored=stored, plan=changes, impact=impact)


async def apply(store: Store, keys: Keys, planned: PlannedImport, stamp: Stamp) -> ImportResult:
    """Commits the plan. Writes nothing at all when there is nothing to do, or when it raises.

    Raises ``StoreConflict`` when somebody else imported since the plan, ``StoreTooLarge`` beyond the
    store's limits, ``StoreAmbiguous`` when it stayed unknown whether the commit happened.
    """
    previous = planned.stored.meta
    if previous is not None and previous.state != "complete":
        raise OrbitError(
            f"{store.address}: the import of {previous.imported_at} by {previous.imported_by} is still being "
            "applied; wait until it is complete. This version cannot finish one that was interrupted"
        )
    if previous is not None and not planned.is_needed:
        return ImportResult(meta=previous, written=False)
    meta = next_meta(
        previous,
        known_generation=planned.stored.known_generation,
        epoch=stamp.epoch,
        import_id=stamp.import_id,
        now=stamp.now,
        user=stamp.user,
        source=stamp.source,
    )
    transaction = import_transaction(planned.plan, keys=keys, read_meta=planned.stored.read_meta, meta=meta)
    _require_fit(transaction, store.limits, store.address)
    await _commit(store, keys, transaction, import_id=stamp.import_id)
    return ImportResult(meta=meta, written=True)


def _require_fit(transaction: Transaction, limits: Limits, address: str) -> None:
    if not transaction.fits(limits):
        raise StoreTooLarge(
            f"{address}: the import is too large for this version. It is {len(transaction.operations)} "
            f"operations and {transaction.bytes:,} bytes; one transaction takes {limits.operations} and "
            f"{limits.bytes:,}. Nothing was written. Import in steps: first a part of the new files"
        )


async def _commit(store: Store, keys: Keys, transaction: Transaction, *, import_id: str) -> None:
    for _ in range(_ATTEMPTS):
        try:
            await store.commit(transaction.compares, transaction.operations)
        except StoreAmbiguous:
            continue
        except StoreConflict as error:
            found = await _read_meta(store, keys)
            if found is not None and found.import_id == import_id:
                return
            raise StoreConflict(_conflict(store.address, found)) from error
        return
    raise StoreAmbiguous(
        f"{store.address}: the connection broke while the import was written, {_ATTEMPTS} times; "
        "it may have happened or not. `orbitctl verify` tells; importing again does no harm"
    )


async def _read_meta(store: Store, keys: Keys) -> ConfigMeta | None:
    found = await store.get(keys.meta)
    return decode(found.value, ConfigMeta, key=found.key) if found else None


def _conflict(address: str, found: ConfigMeta | None) -> str:
    if found is None:
        return f"{address}: config/meta was removed while this import was planned; nothing was written"
    return (
        f"{address}: {found.imported_by} imported generation {found.generation} at {found.imported_at}, "
        "after this import was planned; nothing was written. "
        "Look at the new plan with `orbitctl plan`, then import again"
    )
