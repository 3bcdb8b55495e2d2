from __future__ import annotations

import pytest

from orbitcontrol.errors import StoreRefused, StoreTooLarge
from orbitcontrol.model.stored import Absent, Delete, Limits, Operation, Put, Range, Unchanged
from orbitcontrol.store.transaction import check_transaction, key_bytes, key_text

ROOMY = Limits(operations=10, bytes=1000)


def check(*operations: Operation, limits: Limits = ROOMY) -> None:
    check_transaction([], operations, limits=limits, address="store")


def test_what_touches_each_key_once_passes() -> None:
    check(
        Put("/a", b""),
        Put("/a\0", b""),
        Put("/b", b""),
        Delete(Range("/c", "/d")),
        Put("/d", b""),
        Delete(Range.prefix("/x/")),
        Put("/x", b""),
        Put("/x0", b""),
    )


@pytest.mark.parametrize(
    "operations",
    [
        (Put("/a", b""), Put("/b", b""), Put("/a", b"")),
        (Delete(Range("/a", "/z")), Put("/m", b"")),
        (Put("/m", b""), Delete(Range("/m", "/n"))),
        (Delete(Range("/a", "/m")), Delete(Range("/l", "/z"))),
        (Delete(Range("/a", "/z")), Put("/b", b""), Delete(Range("/y", "/zz"))),
    ],
)
def test_what_touches_a_key_twice_is_refused_by_name(operations: tuple[Operation, ...]) -> None:
    with pytest.raises(StoreRefused, match=r"store: the transaction touches '/.*' twice"):
        check(*operations)


def test_comparisons_count_like_operations() -> None:
    compares = [Unchanged(f"/{number}", 1) for number in range(11)]
    with pytest.raises(StoreTooLarge, match=r"11 operations.*the most is 10"):
        check_transaction(compares, [], limits=ROOMY, address="store")
    check_transaction(compares[:10], [], limits=ROOMY, address="store")


def test_the_bytes_of_all_keys_and_values_count() -> None:
    check(Put("/ab", bytes(997)))
    with pytest.raises(StoreTooLarge, match="1001 bytes"):
        check(Put("/ab", bytes(998)))
    with pytest.raises(StoreTooLarge, match="1002 bytes"):
        check_transaction([Absent(Range("a" * 501, "b" * 501))], [], limits=ROOMY, address="store")


@pytest.mark.parametrize(
    "raw", [b"/plain", "/grün/\U0001f680".encode(), b"/\xff\xfe\x80", bytes(range(1, 256))]
)
def test_every_key_of_a_store_has_a_text_and_comes_back_from_it(raw: bytes) -> None:
    assert key_bytes(key_text(raw)) == raw


@pytest.mark.parametrize("key", ["", "\ud800"])
def test_what_cannot_be_a_key_is_refused(key: str) -> None:
    with pytest.raises(StoreRefused, match="cannot be a store key"):
        key_bytes(key)
