"""The steps of a large import, as transactions: what each compares and what it writes."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import StoreTooLarge, UndecodableValue
from orbitcontrol.model.state import ConfigMeta
from orbitcontrol.model.stored import Absent, Delete, KeyValue, Limits, Put, Range, Unchanged
from orbitcontrol.planning import redolog
from orbitcontrol.planning.imports import plan_import, size_of
from orbitcontrol.planning.redolog import Header, Redo, overlaid, parts_of, read_log, redo_of, standing
from orbitcontrol.store.transaction import check_transaction

KEYS = Keys()
META = ConfigMeta(epoch="e", generation=7, import_id="new", imported_at="t", imported_by="alice")
BASE = KeyValue(key=KEYS.meta, value=b"", mod_revision=42)
HEADER = Unchanged("/orbit/config/import/new/header", 50)
APPLYING = Unchanged(KEYS.meta, 60)
REDO: Redo = {"services/a": b'{"A":1}', "services/b": None, "tags/t/certs/ü \"x'": b'{"Content":"x"}'}
ROOMY = Limits(operations=128, bytes=1_500_000)


def stored(parts: tuple[Put, ...], *, import_id: str = "new") -> list[KeyValue]:
    """A written log."""
    header = Header(parts=len(parts), generation=8, imported_at="t", imported_by="bob")
    puts = [Put(KEYS.import_header(import_id), encode(header)), *parts]
    return [KeyValue(key=put.key, value=put.value, mod_revision=1) for put in puts]


def parts(redo: Redo, limits: Limits = ROOMY) -> tuple[Put, ...]:
    return parts_of(redo, keys=KEYS, import_id="new", limits=limits)


class TestSteps:
    def test_the_header_needs_the_base_and_that_no_log_is_there(self) -> None:
        header = Header(parts=2, generation=8, imported_at="t", imported_by="bob")
        begin = redolog.begin(keys=KEYS, base=BASE, import_id="new", header=header)
        assert begin.compares == (
            Unchanged(KEYS.meta, 42),
            Absent(Range("/orbit/config/import/new/", "/orbit/config/import/new0")),
        )
        (put,) = begin.operations
        assert isinstance(put, Put)
        assert put.key == HEADER.key
        assert decode(put.value, Header, key=put.key) == header

    def test_each_part_needs_the_header(self) -> None:
        (part,) = redolog.log(parts(REDO), header=HEADER)
        assert part.compares == (HEADER,)

    @pytest.mark.parametrize(
        ("base", "compare"), [(BASE, Unchanged(KEYS.meta, 42)), (None, Absent(Range.single(KEYS.meta)))]
    )
    def test_the_commit_needs_base_and_header_and_writes_meta_alone(self, base: Any, compare: Any) -> None:
        commit = redolog.commit(keys=KEYS, base=base, header=HEADER, meta=META)
        assert commit.compares == (compare, HEADER)
        assert commit.operations == (Put(KEYS.meta, encode(structs.replace(META, state="applying"))),)

    def test_each_copy_needs_the_meta_that_says_applying(self) -> None:
        copies = redolog.copies(REDO, keys=KEYS, applying=APPLYING, limits=Limits(operations=2, bytes=1000))
        assert [copy.compares for copy in copies] == [(APPLYING,), (APPLYING,)]
        assert [operation for copy in copies for operation in copy.operations] == [
            Put("/orbit/config/services/a", b'{"A":1}'),
            Delete(Range.single("/orbit/config/services/b")),
            Put("/orbit/config/tags/t/certs/ü \"x'", b'{"Content":"x"}'),
        ]

    def test_the_end_deletes_every_log(self) -> None:
        complete = redolog.complete(
            keys=KEYS, applying=APPLYING, meta=structs.replace(META, state="applying")
        )
        assert complete.compares == (APPLYING,)
        assert complete.operations == (Put(KEYS.meta, encode(META)), Delete(KEYS.import_logs))

    def test_a_log_is_dropped_only_while_it_is_known_not_to_be_committed(self) -> None:
        drop = redolog.drop(keys=KEYS, read_meta=BASE, logs=KEYS.import_log("dead"))
        assert drop.compares == (Unchanged(KEYS.meta, 42),)
        assert drop.operations == (Delete(KEYS.import_log("dead")),)


class TestLog:
    @pytest.mark.parametrize("limits", [ROOMY, Limits(operations=1, bytes=150)])
    def test_what_is_read_is_what_was_written(self, limits: Limits) -> None:
        written = parts(REDO, limits)
        assert (len(written) > 1) == (limits is not ROOMY)
        assert read_log(stored(written), keys=KEYS, import_id="new") == REDO

    def test_values_keep_every_byte(self) -> None:
        redo: Redo = {"services/a": '{ "ü": [1.0, 1e5,\t"\\u00e9"]\n}'.encode()}
        assert read_log(stored(parts(redo)), keys=KEYS, import_id="new") == redo

    def test_keys_that_are_no_text_can_be_deleted(self) -> None:
        redo: Redo = {"services/\udcff %41/ü": None}
        assert read_log(stored(parts(redo)), keys=KEYS, import_id="new") == redo

    def test_the_logs_of_others_are_passed_over(self) -> None:
        items = [*stored(parts({"services/x": b"1"}), import_id="other"), *stored(parts(REDO))]
        assert read_log(items, keys=KEYS, import_id="new") == REDO

    @pytest.mark.parametrize("lost", ["header", "000001", "000002"])
    def test_a_log_with_something_missing_is_refused(self, lost: str) -> None:
        items = [
            item
            for item in stored(parts(REDO, Limits(operations=1, bytes=150)))
            if not item.key.endswith(lost)
        ]
        with pytest.raises(UndecodableValue, match=f"new/{lost}: is missing"):
            read_log(items, keys=KEYS, import_id="new")

    def test_an_import_is_read_from_its_changes(self) -> None:
        plan = plan_import({"services/a": b"{}", "services/b": b"1"}, {"services/b": b"2"})
        assert redo_of(plan.changes) == {"services/a": None, "services/b": b"2"}

    def test_a_log_laid_over_the_entries_is_what_will_be(self) -> None:
        assert overlaid(
            {"services/b": b"{}", "services/c": b"{}"}, {"services/a": b"1", "services/b": None}
        ) == {"services/a": b"1", "services/c": b"{}"}


class TestSizes:
    def test_what_is_counted_is_what_the_stores_count(self) -> None:
        header = Header(parts=1, generation=1, imported_at="t", imported_by="ü")
        steps = [
            redolog.begin(keys=KEYS, base=BASE, import_id="new", header=header),
            *redolog.log(parts(REDO), header=HEADER),
            redolog.commit(keys=KEYS, base=None, header=HEADER, meta=META),
            *redolog.copies(REDO, keys=KEYS, applying=APPLYING, limits=ROOMY),
            redolog.complete(keys=KEYS, applying=APPLYING, meta=META),
        ]
        for step in steps:
            count = max(len(step.compares), len(step.operations))
            exactly = Limits(operations=count, bytes=step.bytes)
            assert step.fits(exactly)
            check_transaction(step.compares, step.operations, limits=exactly, address="")
            short = Limits(operations=count, bytes=step.bytes - 1)
            assert not step.fits(short)
            with pytest.raises(StoreTooLarge):
                check_transaction(step.compares, step.operations, limits=short, address="")

    @pytest.mark.parametrize("size", range(100, 200))
    def test_parts_and_copies_keep_to_the_limits(self, size: int) -> None:
        redo: dict[str, bytes | None] = {f"services/gone-{n}": None for n in range(30)}
        redo |= {f"services/{'ü' * n}": b'"' + b"x" * (size - 3 * n) + b'"' for n in range(30)}
        limits = Limits(operations=4, bytes=600)
        steps = [
            *redolog.log(parts(redo, limits), header=HEADER),
            *redolog.copies(redo, keys=KEYS, applying=APPLYING, limits=limits),
        ]
        assert all(step.fits(limits) for step in steps)

    def test_large_limits_are_not_used_to_the_full(self) -> None:
        """A line that is slow must carry each transaction within the time of a call."""
        redo: Redo = {f"services/s{n:03}": b'"' + b"x" * 10_000 + b'"' for n in range(100)}
        copies = redolog.copies(redo, keys=KEYS, applying=APPLYING, limits=ROOMY)
        assert max(step.bytes for step in copies) < 270_000
        assert max(map(size_of, parts(redo))) < 270_000

    def test_an_entry_that_fits_nowhere_is_named_without_its_value(self) -> None:
        redo: Redo = {"services/a": b"{}", "services/huge": b'"' + b"secret" * 100 + b'"'}
        with pytest.raises(
            StoreTooLarge, match=r"config/services/huge: .* bytes.*nothing was written"
        ) as told:
            parts(redo, Limits(operations=4, bytes=600))
        assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("found", "is_now"),
    [
        (structs.replace(META, state="applying"), "applying"),
        (META, "done"),
        (structs.replace(META, import_id="later", generation=8), "done"),
        (structs.replace(META, import_id="before", generation=6), "lost"),
        (structs.replace(META, import_id="another", generation=7), "lost"),
        (structs.replace(META, epoch="other", generation=9), "lost"),
        (None, "lost"),
    ],
)
def test_meta_tells_what_became_of_an_import(found: ConfigMeta | None, is_now: str) -> None:
    assert standing(found, META) == is_now
