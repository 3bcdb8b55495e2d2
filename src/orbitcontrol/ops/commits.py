"""Commits of an import: sent again when the answer is lost, several at once, conflicts explained.

A lost answer leaves it open whether a transaction happened. Sending it again is right for those of an
import: either it is idempotent, or its comparison fails if the first one did happen, and then a look at
``config/meta`` tells whose doing that was: the ``Import`` id in it is random.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.errors import StoreAmbiguous, StoreConflict
from orbitcontrol.model.state import ConfigMeta
from orbitcontrol.model.stored import KeyValue
from orbitcontrol.planning.imports import Transaction
from orbitcontrol.planning.redolog import standing
from orbitcontrol.ports import Store

_ATTEMPTS = 3
_AT_ONCE = 8
"""Transactions on their way together: the store writes them to its disk in one go."""


async def commit(store: Store, transaction: Transaction) -> int:
    """The store's revision after it. ``StoreConflict`` may also mean that an earlier attempt succeeded."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return await store.commit(transaction.compares, transaction.operations)
        except StoreAmbiguous:
            continue
    return await store.commit(transaction.compares, transaction.operations)


async def commit_all(store: Store, transactions: Iterable[Transaction]) -> None:
    """Commits all, in any order. Raises one of the failures; what was on its way may still happen."""
    waiting = iter(transactions)

    async def work() -> None:
        for transaction in waiting:
            await commit(store, transaction)

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(_AT_ONCE):
                group.create_task(work(), name=f"import {number}")
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def commit_import(
    store: Store, keys: Keys, transaction: Transaction, *, base: KeyValue | None, meta: ConfigMeta
) -> None:
    """Commits the transaction that decides an import: it compares ``base`` and puts ``meta``.

    Raises ``StoreConflict`` when somebody was faster and nothing was written, ``StoreAmbiguous`` when it
    stayed unknown whether it happened.
    """
    unanswered = False
    for _ in range(_ATTEMPTS):
        try:
            await store.commit(transaction.compares, transaction.operations)
        except StoreAmbiguous:
            unanswered = True
            continue
        except StoreConflict as error:
            found = await store.get(keys.meta)
            now = meta_of(found)
            if now is not None and now.import_id == meta.import_id:
                return
            if not unanswered or standing(now, meta) != "done":
                raise StoreConflict(explained(store.address, base, found)) from error
            break
        return
    raise StoreAmbiguous(
        f"{store.address}: the connection broke while the import was written; "
        "it may have happened or not. `orbitctl verify` tells; importing again does no harm"
    )


def meta_of(item: KeyValue | None) -> ConfigMeta | None:
    """The value of ``config/meta``."""
    return decode(item.value, ConfigMeta, key=item.key) if item else None


def explained(address: str, base: KeyValue | None, found: KeyValue | None) -> str:
    """Why an import that was planned from ``base`` is refused where ``config/meta`` is ``found``."""
    before, now = meta_of(base), meta_of(found)
    if base == found:
        return (
            f"{address}: another `orbitctl import` took this one for dead before it was decided, and dropped "
            "it; nothing was written. Import again"
        )
    if now is None:
        return f"{address}: config/meta was removed while this import was planned; nothing was written"
    if before is not None and before.import_id == now.import_id:
        return f"{address}: config/meta was changed while this import was planned; nothing was written"
    return (
        f"{address}: {now.imported_by} imported generation {now.generation} at {now.imported_at}, "
        "after this import was planned; nothing was written. "
        "Look at the new plan with `orbitctl plan`, then import again"
    )
