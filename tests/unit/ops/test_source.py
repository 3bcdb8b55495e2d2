"""Which tree was imported, as git and its content say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from orbitcontrol.ops.source import source_of

ENTRIES = {"services/web": b"{}"}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "test")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "test@example.com")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("x")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", directory, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_clean_tree_has_its_commit(repository: Path) -> None:
    source = source_of(repository / "tree", ENTRIES)
    assert source.commit == git(repository, "rev-parse", "HEAD")
    assert not source.dirty


@pytest.mark.parametrize("file", ["tree/file", "tree/new"])
def test_a_change_in_the_tree_makes_it_dirty(repository: Path, file: str) -> None:
    (repository / file).write_text("y")
    assert source_of(repository / "tree", ENTRIES).dirty


def test_a_change_beside_the_tree_does_not(repository: Path) -> None:
    (repository / "other").write_text("y")
    assert not source_of(repository / "tree", ENTRIES).dirty


def test_outside_of_a_repository_the_digest_alone_remains(tmp_path: Path) -> None:
    source = source_of(tmp_path, ENTRIES)
    assert (source.commit, source.dirty) == (None, False)
    assert source.digest.startswith("sha256:")


def test_without_git_the_digest_alone_remains(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert source_of(repository, ENTRIES).commit is None


@pytest.mark.parametrize(
    "other",
    [{}, {"services/web": b"[]"}, {"services/wea": b"{}"}, {"services/web": b"{}", "services/x": b""}],
)
def test_another_content_has_another_digest(tmp_path: Path, other: dict[str, bytes]) -> None:
    assert source_of(tmp_path, other).digest != source_of(tmp_path, ENTRIES).digest


def test_the_order_of_entries_does_not_count(tmp_path: Path) -> None:
    one, other = {"a": b"1", "b": b"2"}, {"b": b"2", "a": b"1"}
    assert source_of(tmp_path, one) == source_of(tmp_path, other)
