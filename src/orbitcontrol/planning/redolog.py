"""An import that is larger than one transaction: a redo log, and why it is all or nothing.

Words
-----
*The log* of an import are the keys below ``config/import/<id>/``, ``<id>`` random: a *header* and
numbered *parts*, which together name every entry to be put and every entry to be deleted. *Meta* is the
key ``config/meta``; *unchanged* always means "with the ``mod_revision`` that was read". *Base* is meta as
it was when the import was planned.

The steps, each of them transactions
------------------------------------
    1. header     if meta is still base, and there is no log of this id     put the header
    2. parts      if the header is unchanged                                put one part
    3. commit     if meta is still base, and the header is unchanged        meta := applying, Import <id>
    4. copy       if meta is unchanged, and says applying <id>              put and delete some entries
    5. complete   if meta is unchanged, and says applying <id>              meta := complete; delete all logs

    drop          if meta is unchanged, and does not say applying <id>      delete that log, or all logs

The transactions inside 2, and inside 4, go in any order and several at once; 3 waits for all of 2, and
5 for all of 4. An import that fits into one transaction is 3, 4 and 5 in one, with nothing in between.

What readers do
---------------
A reader takes meta and the entries at one revision of the store. While meta says ``applying`` a daemon
keeps the configuration that it has. ``plan``, ``verify`` and ``export`` lay the log over the entries
(``overlaid``): the import has happened, only its copying has not ended.

Why nobody ever acts on half of an import
-----------------------------------------
*Before 3 nothing is visible.* 1 and 2 write below ``config/import/`` only, which no reader takes for
configuration.

*Entries change under ``applying`` alone.* Only 4 changes entries, and each of its transactions compares
a meta that says ``applying``. So at every revision at which meta says ``complete``, the entries are what
they were when it began to say so.

*At 5 the entries are base's entries with the whole log done.* Whoever commits 5 has seen all its own
transactions of 4 succeed, so each entry of the log was written at least once since 3. And every write to
an entry since 3, whoever made it, came from the same log, so it wrote the same value: how often and in
which order does not matter.

Why the log is whole at 3
-------------------------
3 is sent after all parts were confirmed, and compares the header. Parts cannot go without the header: a
drop deletes both in one transaction. Were the log dropped and begun anew, its header would have another
``mod_revision``. A part that is late (its answer was lost, it was sent again) writes what is there
already, or finds no header and writes nothing. The header says how many parts there are, so that damage
from outside is noticed before anything is copied.

Why an import that died can be finished or dropped, and by whom
---------------------------------------------------------------
*Died before 3:* meta does not name it. Any importer drops it, and need not know whether it lives: if it
does, its commit compares the header and fails, and it says so. If instead the commit comes first, the
drop compares meta and fails. There is no order in which both succeed.

*Died after 3:* meta names it, and the log has all that 4 and 5 need. Any importer does them, and again
need not know whether the first one lives: both may copy at once, because copying is idempotent; of two
5s one succeeds. The other one, and every transaction of 4 that is late, finds another meta and writes
nothing. It knows the outcome nevertheless: a meta with this id that is ``complete``, or a later
generation, which can only have been made from the completed one. So there is no waiting for somebody
who may be dead, no lock, no lease and no clock.

*Dropping all logs at 5* (and whenever an import commits in one transaction, if there are any) is safe for
the same reason as it is needed: every log was begun from an earlier meta, so none of them can be
committed any more.

Why two imports never mix
-------------------------
Both compare the meta they were planned from, and whoever commits changes it. While one is being applied
nobody commits another: the base of an import is always ``complete``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal
from urllib.parse import quote, unquote

import msgspec
from msgspec import Struct, structs

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import StoreTooLarge, UndecodableValue
from orbitcontrol.model.state import ConfigMeta
from orbitcontrol.model.stored import Absent, Delete, KeyValue, Limits, Put, Range, Unchanged
from orbitcontrol.planning.imports import Change, Transaction, meta_is, operation_of, size_of

Redo = Mapping[str, bytes | None]
"""What a log says: the new value of each entry by its key below ``config/``; None deletes it."""

CHUNK_BYTES = 256 * 1024
"""How large parts and copies become, unless a single entry is larger: a slow line carries it in time."""


class Header(Struct, frozen=True, kw_only=True, rename="pascal"):
    """``config/import/<id>/header``: how many parts the log has, and for people whose it is."""

    parts: int
    generation: int
    imported_at: str
    imported_by: str


class Part(Struct, frozen=True, kw_only=True, rename="pascal"):
    """``config/import/<id>/<number>``: some of the entries. Keys in ``delete`` are percent-encoded.

    What is put comes from a tree, whose names are text. What is deleted may be somebody else's key, in
    bytes that JSON cannot hold.
    """

    put: dict[str, msgspec.Raw] = {}
    delete: tuple[str, ...] = ()


_EMPTY_PART = len(encode(Part()))


def redo_of(changes: Iterable[Change]) -> Redo:
    """What the log of these changes says."""
    return {change.key: change.after for change in changes}


def parts_of(redo: Redo, *, keys: Keys, import_id: str, limits: Limits) -> tuple[Put, ...]:
    """The log's parts in order. Raises ``StoreTooLarge`` naming an entry that no transaction takes."""
    untouched = Unchanged(keys.import_header(import_id), 0)
    room = limits.bytes - size_of(untouched) - size_of(Put(keys.import_part(import_id, 1), b"")) - _EMPTY_PART
    packed = _packed(redo, size=lambda key: _written_size(key, redo[key]), room=room, most=None)
    return tuple(
        Put(keys.import_part(import_id, number), encode(_part(some, redo)))
        for number, some in enumerate(packed, start=1)
    )


def begin(*, keys: Keys, base: KeyValue | None, import_id: str, header: Header) -> Transaction:
    """Step 1: the header."""
    return Transaction(
        compares=(meta_is(base, keys), Absent(keys.import_log(import_id))),
        operations=(Put(keys.import_header(import_id), encode(header)),),
    )


def log(parts: Iterable[Put], *, header: Unchanged) -> tuple[Transaction, ...]:
    """Step 2: the parts, each on its own."""
    return tuple(Transaction(compares=(header,), operations=(part,)) for part in parts)


def commit(*, keys: Keys, base: KeyValue | None, header: Unchanged, meta: ConfigMeta) -> Transaction:
    """Step 3. ``meta`` is what the import will end with."""
    applying = structs.replace(meta, state="applying")
    return Transaction(compares=(meta_is(base, keys), header), operations=(Put(keys.meta, encode(applying)),))


def copies(redo: Redo, *, keys: Keys, applying: Unchanged, limits: Limits) -> tuple[Transaction, ...]:
    """Step 4. ``applying`` compares the meta of step 3."""
    operations = {key: operation_of(key, value, keys) for key, value in redo.items()}
    packed = _packed(
        redo,
        size=lambda key: size_of(operations[key]),
        room=limits.bytes - size_of(applying),
        most=limits.operations,
    )
    return tuple(
        Transaction(compares=(applying,), operations=tuple(operations[key] for key in some))
        for some in packed
    )


def complete(*, keys: Keys, applying: Unchanged, meta: ConfigMeta) -> Transaction:
    """Step 5. ``meta`` may be as step 3 wrote it."""
    completed = structs.replace(meta, state="complete")
    return Transaction(
        compares=(applying,), operations=(Put(keys.meta, encode(completed)), Delete(keys.import_logs))
    )


def drop(*, keys: Keys, read_meta: KeyValue | None, logs: Range) -> Transaction:
    """Deletes logs that were not committed at ``read_meta``."""
    return Transaction(compares=(meta_is(read_meta, keys),), operations=(Delete(logs),))


def read_log(items: Iterable[KeyValue], *, keys: Keys, import_id: str) -> Redo:
    """The committed log from the store's keys, in which there may be others.

    Raises ``UndecodableValue`` when it is not what its importer confirmed.
    """
    name = keys.import_header(import_id)
    mine = {item.key: item.value for item in items if item.key in keys.import_log(import_id)}
    if name not in mine:
        raise _damaged(name, "is missing")
    header = decode(mine[name], Header, key=name)
    redo: dict[str, bytes | None] = {}
    for number in range(1, header.parts + 1):
        key = keys.import_part(import_id, number)
        if key not in mine:
            raise _damaged(key, f"is missing, one of {header.parts} parts")
        part = decode(mine[key], Part, key=key)
        redo |= {entry: bytes(value) for entry, value in part.put.items()}
        redo |= {unquote(entry, errors="surrogateescape"): None for entry in part.delete}
    return redo


def overlaid(entries: Mapping[str, bytes], redo: Redo) -> dict[str, bytes]:
    """The entries as they will be when the log has been copied."""
    merged = {**entries, **redo}
    return {key: value for key, value in merged.items() if value is not None}


Standing = Literal["applying", "done", "lost"]


def standing(found: ConfigMeta | None, committed: ConfigMeta) -> Standing:
    """What became of an import that was committed, from the meta that is there now.

    ``lost``: the store was wiped, or went back to before the import.
    """
    if found is None or found.epoch != committed.epoch:
        return "lost"
    if found.import_id == committed.import_id:
        return "applying" if found.state == "applying" else "done"
    return "done" if found.generation > committed.generation else "lost"


def _part(some: Iterable[str], redo: Redo) -> Part:
    put: dict[str, msgspec.Raw] = {}
    delete: list[str] = []
    for key in some:
        value = redo[key]
        if value is None:
            delete.append(_quoted(key))
        else:
            put[key] = msgspec.Raw(value)
    return Part(put=put, delete=tuple(delete))


def _written_size(key: str, value: bytes | None) -> int:
    """Bytes of an entry inside a part, with the colon and the comma."""
    if value is None:
        return len(_quoted(key)) + len('"",')
    return len(encode(key)) + len(value) + len(":,")


def _quoted(key: str) -> str:
    return quote(key, errors="surrogateescape")


def _packed(
    redo: Redo, *, size: Callable[[str], int], room: int, most: int | None
) -> Iterator[tuple[str, ...]]:
    """The keys of the entries in order, in groups of at most ``room`` bytes and ``most`` entries."""
    group: list[str] = []
    used = 0
    for key in sorted(redo):
        needed = size(key)
        if needed > room:
            raise StoreTooLarge(
                f"config/{key}: is larger than one transaction of the store: {needed:,} bytes, "
                f"{room:,} fit; nothing was written. Make it smaller"
            )
        if group and (used + needed > min(room, CHUNK_BYTES) or len(group) == most):
            yield tuple(group)
            group, used = [], 0
        group.append(key)
        used += needed
    if group:
        yield tuple(group)


def _damaged(key: str, what: str) -> UndecodableValue:
    return UndecodableValue(
        f"{key}: {what}: the log of the import that is being applied was damaged from outside, so it cannot "
        "be finished. Put this key back, from a backup of the store"
    )
