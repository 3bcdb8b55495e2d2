"""An import that is larger than one transaction, step by step; why it is safe says ``planning.redolog``.

``import_large`` does all steps. ``finish`` does the last two for whoever finds an import that was decided
and has not ended; its importer may be dead, or be doing the same at this moment.
"""

from __future__ import annotations

from contextlib import suppress

from orbitcontrol.codec.keys import Keys
from orbitcontrol.errors import StoreAmbiguous, StoreConflict, StoreError, StoreUnreachable
from orbitcontrol.model.state import ConfigMeta
from orbitcontrol.model.stored import KeyValue, Unchanged
from orbitcontrol.ops.commits import commit, commit_all, commit_import, explained, meta_of
from orbitcontrol.planning import redolog
from orbitcontrol.planning.imports import Transaction
from orbitcontrol.planning.redolog import Header, Redo, standing
from orbitcontrol.ports import Store

_ROUNDS = 10
"""How often ``config/meta`` may change under an import that is being applied, by ``orbitctl recover``."""


async def import_large(
    store: Store, keys: Keys, redo: Redo, *, base: KeyValue | None, meta: ConfigMeta
) -> None:
    """Does ``redo`` to the entries at ``base`` and makes ``meta`` the store's. Raises what ``apply`` does."""
    import_id = str(meta.import_id)
    try:
        header = await _write_log(store, keys, redo, base=base, meta=meta)
        decision = redolog.commit(keys=keys, base=base, header=header, meta=meta)
        await commit_import(store, keys, decision, base=base, meta=meta)
    except (StoreAmbiguous, StoreUnreachable):
        raise  # it may have been decided, or the store is away: the next import sees to the log
    except StoreError:
        with suppress(StoreError):  # the next import drops it
            await _abandon(store, keys, import_id)
        raise
    try:
        await finish(store, keys, redo=redo, committed=meta)
    except StoreConflict:
        raise
    except StoreError as error:
        raise type(error)(
            f"{error}\nThe import is decided, but not complete; until then the machines keep the "
            "configuration they have. `orbitctl import` finishes it"
        ) from error


async def finish(store: Store, keys: Keys, *, redo: Redo, committed: ConfigMeta) -> KeyValue:
    """Copies a decided import into place and completes it; ``config/meta`` as it is after that.

    Raises ``StoreConflict`` when the store was wiped or restored meanwhile.
    """
    for _ in range(_ROUNDS):
        found = await store.get(keys.meta)
        now = meta_of(found)
        state = standing(now, committed)
        if found is None or now is None or state == "lost":
            raise StoreConflict(
                f"{store.address}: config/meta was removed or put back while an import was being applied; "
                "import the whole tree again"
            )
        if state == "done":
            return found
        applying = Unchanged(keys.meta, found.mod_revision)
        with suppress(StoreConflict):  # somebody else completed it, or changed meta: look again
            await commit_all(store, redolog.copies(redo, keys=keys, applying=applying, limits=store.limits))
            await commit(store, redolog.complete(keys=keys, applying=applying, meta=now))
    raise StoreConflict(f"{store.address}: config/meta changes all the time, the import cannot be completed")


async def drop_logs(store: Store, keys: Keys, base: KeyValue | None) -> None:
    """Deletes all logs that were not committed at ``base``, if that is still how things are."""
    with suppress(StoreConflict):
        await commit(store, redolog.drop(keys=keys, read_meta=base, logs=keys.import_logs))


async def _write_log(
    store: Store, keys: Keys, redo: Redo, *, base: KeyValue | None, meta: ConfigMeta
) -> Unchanged:
    """Writes header and parts; the comparison that holds while nobody has dropped them."""
    import_id = str(meta.import_id)
    parts = redolog.parts_of(redo, keys=keys, import_id=import_id, limits=store.limits)
    header = Header(
        parts=len(parts),
        generation=meta.generation,
        imported_at=meta.imported_at,
        imported_by=meta.imported_by,
    )
    begin = redolog.begin(keys=keys, base=base, import_id=import_id, header=header)
    try:
        untouched = await _begun(store, begin, keys.import_header(import_id))
        await commit_all(store, redolog.log(parts, header=untouched))
    except StoreConflict as error:
        raise StoreConflict(explained(store.address, base, await store.get(keys.meta))) from error
    except StoreAmbiguous as error:
        raise StoreUnreachable(
            f"{store.address}: no answer while an import was prepared; nothing of it is in force, try again"
        ) from error
    return untouched


async def _begun(store: Store, begin: Transaction, header: str) -> Unchanged:
    """The comparison with the header that ``begin`` puts."""
    try:
        return Unchanged(header, await commit(store, begin))
    except StoreConflict:
        found = await store.get(header)
        if found is None:
            raise
        return Unchanged(header, found.mod_revision)  # an attempt whose answer was lost


async def _abandon(store: Store, keys: Keys, import_id: str) -> None:
    """Deletes the log of an import that was not decided."""
    found = await store.get(keys.meta)
    now = meta_of(found)
    if now is None or now.import_id != import_id:
        logs = keys.import_log(import_id)
        await commit(store, redolog.drop(keys=keys, read_meta=found, logs=logs))
