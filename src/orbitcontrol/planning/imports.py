"""What an import would change, and the one transaction that does it where one is enough.

``plan_import`` compares what the store holds with what a tree says. Both sides are entries (see
``codec.entries``) and are compared as JSON, so that a value which somebody wrote with other spacing is
no difference. The transaction compares ``config/meta``, raises its generation and writes only what
differs: of two imports that read the same generation, one is refused whole. An import that is larger than
one transaction is the matter of ``redolog``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from msgspec import Struct

from orbitcontrol.codec.entries import EntryKey, decode_text, parse_key, same_value
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import encode
from orbitcontrol.errors import UndecodableValue
from orbitcontrol.model.state import ConfigMeta, Source
from orbitcontrol.model.stored import (
    Absent,
    Compare,
    Delete,
    KeyValue,
    Limits,
    Operation,
    Put,
    Range,
    Unchanged,
)
from orbitcontrol.planning.differences import differences, text_differences

Kind = Literal["added", "changed", "removed"]
_SIGNS: dict[Kind, str] = {"added": "+", "changed": "~", "removed": "-"}


class Change(Struct, frozen=True, kw_only=True):
    """One entry that differs. ``details`` tell a person how, secrets hidden; empty unless changed."""

    key: str
    before: bytes | None
    after: bytes | None
    details: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"

    def lines(self) -> Iterator[str]:
        """The change for people, each line complete in itself: ``~ services/web: Instances: 1 → 2``."""
        head = f"{_SIGNS[self.kind]} {self.key}"
        if self.details:
            yield from (f"{head}: {detail}" for detail in self.details)
        else:
            yield head


class ImportPlan(Struct, frozen=True, kw_only=True):
    """Every entry that differs, sorted by key, and how many do not."""

    changes: tuple[Change, ...] = ()
    unchanged: int = 0

    @property
    def is_empty(self) -> bool:
        return not self.changes

    @property
    def removes(self) -> tuple[str, ...]:
        """The keys that would be gone."""
        return tuple(change.key for change in self.changes if change.kind == "removed")

    def count(self, kind: Kind) -> int:
        return sum(change.kind == kind for change in self.changes)

    def lines(self) -> Iterator[str]:
        for change in self.changes:
            yield from change.lines()


class Transaction(Struct, frozen=True, kw_only=True):
    """Arguments of ``Store.commit``."""

    compares: tuple[Compare, ...]
    operations: tuple[Operation, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all keys and values, as ``Limits`` counts them."""
        return sum(map(size_of, self.compares)) + sum(map(size_of, self.operations))

    def fits(self, limits: Limits) -> bool:
        count = max(len(self.compares), len(self.operations))
        return count <= limits.operations and self.bytes <= limits.bytes


def plan_import(current: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> ImportPlan:
    """What turns the store's entries into the tree's."""
    changes = []
    for key in sorted(current.keys() | wanted.keys()):
        before, after = current.get(key), wanted.get(key)
        if before is None or after is None:
            changes.append(Change(key=key, before=before, after=after))
        elif not same_value(before, after):
            details = tuple(_details(key, before, after))
            changes.append(Change(key=key, before=before, after=after, details=details))
    return ImportPlan(changes=tuple(changes), unchanged=len(current.keys() | wanted.keys()) - len(changes))


def next_meta(
    previous: ConfigMeta | None,
    *,
    epoch: str,
    import_id: str,
    now: str,
    user: str,
    source: Source,
    known_generation: int = 0,
) -> ConfigMeta:
    """``config/meta`` after the import. ``epoch`` (random) counts only for the first into an empty store.

    The generation is above that of the store and above ``known_generation``, the highest that any
    machine says it knew: a store that was restored from a backup must not repeat one.

    ``now`` is RFC 3339 in UTC; ``import_id`` (random) is how a lost answer is told from a lost request.
    """
    return ConfigMeta(
        epoch=previous.epoch if previous else epoch,
        generation=max(previous.generation if previous else 0, known_generation) + 1,
        import_id=import_id,
        imported_at=now,
        imported_by=user,
        source=source,
        continues=previous.continues if previous else {},
    )


def import_transaction(
    plan: ImportPlan, *, keys: Keys, read_meta: KeyValue | None, meta: ConfigMeta, drop_logs: bool = False
) -> Transaction:
    """The plan as one transaction that holds only if ``config/meta`` is still as it was read.

    ``drop_logs``: there are logs of imports that were not committed; from now on none of them can be.
    """
    operations: list[Operation] = [operation_of(change.key, change.after, keys) for change in plan.changes]
    if drop_logs:
        operations.append(Delete(keys.import_logs))
    operations.append(Put(keys.meta, encode(meta)))
    return Transaction(compares=(meta_is(read_meta, keys),), operations=tuple(operations))


def operation_of(key: str, value: bytes | None, keys: Keys) -> Operation:
    """Puts or, with None, deletes an entry."""
    key = keys.config.start + key
    return Delete(Range.single(key)) if value is None else Put(key, value)


def meta_is(read: KeyValue | None, keys: Keys) -> Compare:
    """Holds while ``config/meta`` is as it was read."""
    return Absent(Range.single(keys.meta)) if read is None else Unchanged(keys.meta, read.mod_revision)


def size_of(part: Compare | Operation) -> int:
    """Bytes that a comparison or an operation takes of a transaction's limit, as the stores count them."""
    match part:
        case Put(key=key, value=value):
            return _length(key) + len(value)
        case Unchanged(key=key):
            return _length(key)
        case Absent(range=range) | Delete(range=range):
            return _length(range.start) + _length(range.end)


def _length(key: str) -> int:
    return len(key.encode("utf-8", "surrogateescape"))


def _details(key: str, before: bytes, after: bytes) -> Iterable[str]:
    entry = parse_key(key)
    if entry is not None and entry.kind in {"template", "certificate", "haproxy_file"}:
        return _text_details(entry, key, before, after)
    try:
        old = json.loads(before)
    except (ValueError, RecursionError):
        return ("what the store holds is not JSON",)
    return differences(old, json.loads(after))


def _text_details(entry: EntryKey, key: str, before: bytes, after: bytes) -> Iterator[str]:
    """Templates line by line; of certificates and files only that they changed: they may hold secrets."""
    if entry.kind == "certificate":
        yield "changed (content hidden)"
        return
    try:
        old, new = decode_text(before, key=key), decode_text(after, key=key)
    except UndecodableValue:
        yield "what the store holds cannot be read"
        return
    if entry.kind == "template":
        yield from text_differences(old, new)
    else:
        yield f"changed ({len(old.splitlines())} → {len(new.splitlines())} lines, content hidden)"
