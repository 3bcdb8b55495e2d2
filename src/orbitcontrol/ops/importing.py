"""``plan`` and ``import``: a tree into the store, all of it or nothing.

    planned = await plan(store, keys, tree.entries)     # reads, compares, writes nothing
    …show planned.plan, ask…
    result = await apply(store, keys, planned, stamp)   # one transaction, or a redo log

Between the two somebody else may import. What decides an import compares the ``config/meta`` that the
plan was made from, so the second of two imports is refused whole and told who was first.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from orbitcontrol.codec.keys import Keys
from orbitcontrol.errors import StoreConflict
from orbitcontrol.model.state import ConfigMeta, Source
from orbitcontrol.model.stored import KeyValue
from orbitcontrol.ops.commits import commit_import, explained, meta_of
from orbitcontrol.ops.large_imports import drop_logs, finish, import_large
from orbitcontrol.ops.stored_configuration import StoredConfiguration, read_configuration
from orbitcontrol.planning.impact import Impact, impact_of
from orbitcontrol.planning.imports import ImportPlan, import_transaction, next_meta, plan_import
from orbitcontrol.planning.redolog import redo_of
from orbitcontrol.ports import Store


class PlannedImport(Struct, frozen=True, kw_only=True):
    """What an import would do to the store as it was read."""

    stored: StoredConfiguration
    plan: ImportPlan
    impact: Impact

    @property
    def is_needed(self) -> bool:
        """False when the store has exactly this configuration already."""
        return not self.plan.is_empty or self.stored.meta is None

    @property
    def tidies(self) -> bool:
        """True when an import that did not end is to be finished, or dropped, by the next one."""
        return self.stored.redo is not None or self.stored.dead_logs


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
    """Commits the plan. Writes nothing at all when there is nothing to do.

    An import that was decided and has not ended is finished first, and what others left behind that were
    not decided is dropped. Raises ``StoreConflict`` when somebody else imported since the plan, and
    ``StoreAmbiguous`` when it stayed unknown whether the commit happened.
    """
    stored = planned.stored
    base, previous = stored.read_meta, stored.meta
    if stored.redo is not None and previous is not None:
        base = await finish(store, keys, redo=stored.redo, committed=previous)
        previous = _same_import(store, previous, stored.read_meta, base)
    if previous is not None and planned.plan.is_empty:
        if stored.dead_logs:
            await drop_logs(store, keys, base)
        return ImportResult(meta=previous, written=False)
    meta = next_meta(
        previous,
        known_generation=stored.known_generation,
        epoch=stamp.epoch,
        import_id=stamp.import_id,
        now=stamp.now,
        user=stamp.user,
        source=stamp.source,
    )
    transaction = import_transaction(
        planned.plan, keys=keys, read_meta=base, meta=meta, drop_logs=stored.dead_logs
    )
    if transaction.fits(store.limits):
        await commit_import(store, keys, transaction, base=base, meta=meta)
    else:
        await import_large(store, keys, redo_of(planned.plan.changes), base=base, meta=meta)
    return ImportResult(meta=meta, written=True)


def _same_import(
    store: Store, committed: ConfigMeta, read: KeyValue | None, finished: KeyValue
) -> ConfigMeta:
    """The finished import's meta. Raises ``StoreConflict`` when others have imported after it already."""
    meta = meta_of(finished)
    if meta is None or meta.import_id != committed.import_id:
        raise StoreConflict(explained(store.address, read, finished))
    return meta
