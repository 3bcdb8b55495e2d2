"""Entries to a directory: names are checked, nothing is overwritten, keys stay private."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from orbitcontrol.codec.entries import encode_document, encode_text, parse_key
from orbitcontrol.errors import OrbitError, TreeError
from orbitcontrol.tree.load import load
from orbitcontrol.tree.write import files_of, write
from support.trees import LEGACY_TREE, TAGS


def test_a_tree_written_from_its_entries_loads_to_the_same_entries(tmp_path: Path) -> None:
    entries = load(LEGACY_TREE).entries
    write(files_of(entries), tmp_path / "new")
    assert load(tmp_path / "new").entries == entries


def test_json_is_written_for_people_and_texts_byte_for_byte() -> None:
    files = files_of(
        {
            "services/web": encode_document({"Name": "web", "Attributes": {"ü": "1"}}),
            "tags/lb/haproxy_config": encode_text("a\r\nb\tü"),
        }
    )
    assert files == {
        "services/web.json": '{\n  "Attributes": {\n    "ü": "1"\n  },\n  "Name": "web"\n}\n'.encode(),
        f"{TAGS}/lb/haproxy.tpl": "a\r\nb\tü".encode(),
    }


def test_certificates_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    write(
        files_of({"tags/lb/certs/a.pem": encode_text("key"), "tags/lb/haproxy_config": encode_text("")}),
        tmp_path,
    )
    assert stat.S_IMODE((tmp_path / TAGS / "lb/certs/a.pem").stat().st_mode) == 0o600
    assert (tmp_path / TAGS / "lb/haproxy.tpl").stat().st_mode & stat.S_IROTH


def test_nothing_at_all_is_still_a_tree(tmp_path: Path) -> None:
    write({}, tmp_path / "new")
    assert load(tmp_path / "new").entries == {}


@pytest.mark.parametrize(
    "key",
    [
        "services/..",
        "services/a/b",
        "services/",
        "tags/lb/certs/..",
        "tags/lb/certs/a/b",
        "tags/lb/certs/a\nb",
        "tags/lb/certs/.hidden",
        "tags/../certs/a",
        "tags//haproxy_config",
        "tags/lb/other",
        "other",
    ],
)
def test_a_key_that_cannot_be_a_file_is_named_and_nothing_is_written(key: str) -> None:
    assert parse_key(key) is None
    with pytest.raises(TreeError, match="no file of a tree can stand for this key"):
        files_of({key: b"{}", "services/web": b"{}"})


def test_every_entry_that_cannot_be_read_is_named() -> None:
    with pytest.raises(TreeError) as raised:
        files_of({"services/a": b"{", "tags/t/haproxy_config": b"[]", "tags/t/certs/c": b"\xff"})
    assert [problem.split(":")[0] for problem in raised.value.problems] == [
        "config/services/a",
        "config/tags/t/certs/c",
        "config/tags/t/haproxy_config",
    ]


def test_a_directory_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(TreeError, match="is not empty; name a new directory"):
        write({}, tmp_path)
    with pytest.raises(TreeError, match="is not a directory"):
        write({}, tmp_path / "mine")
    assert [child.name for child in tmp_path.iterdir()] == ["mine"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OrbitError, match="cannot be written"):
        write({}, tmp_path / "file" / "new")
