"""The repository keeps its own promises: documents that are there, locks that are current, one door."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.txt", "requirements-dev.txt")


def project() -> dict[str, list[str]]:
    """What pyproject.toml asks for, to run and to work on it."""
    read = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {"run": read["project"]["dependencies"], "dev": read["dependency-groups"]["dev"]}


def pinned(lock: str) -> dict[str, Version]:
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", (ROOT / lock).read_text(), re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in pins}


def documents() -> list[Path]:
    found = [*list(ROOT.glob("*.md")), *(ROOT / "docs").rglob("*.md")]
    return sorted([*found, *(ROOT / "examples").rglob("*.md")])


def test_the_readme_names_both_commands_before_anything_else() -> None:
    first = re.search(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert first
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == ["make demo", "make test"]
    assert (ROOT / "README.md").read_text()[: first.start()].strip() == "# Orbit Control"


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_pins_every_dependency_within_what_the_project_asks_for(lock: str) -> None:
    asked = project()["run"] + (project()["dev"] if "dev" in lock else [])
    pins = pinned(lock)
    for requirement in map(Requirement, asked):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in {lock}: run `make lock`"
        assert version in requirement.specifier, f"{lock} has {requirement.name} {version}: run `make lock`"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_of_a_lock_file_has_hashes(lock: str) -> None:
    entries = re.split(
        r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", (ROOT / lock).read_text(), flags=re.MULTILINE)
    )
    assert len(entries) > 10
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_names_no_registry(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert not re.search(r"://|--index-url|--extra-index-url|--find-links|--trusted-host", text)


def test_what_orbit_runs_on_is_pinned_alike_for_working_on_it() -> None:
    run, dev = (pinned(lock) for lock in LOCKS)
    assert {name: dev.get(name) for name in run} == run


def test_every_dependency_is_named_in_a_decision() -> None:
    decisions = "\n".join(path.read_text() for path in (ROOT / "docs/decisions").glob("*.md")).lower()
    names = {Requirement(asked).name for group in project().values() for asked in group}
    assert {name for name in names if not re.search(rf"\b{re.escape(name)}\b", decisions)} == set()


def test_decisions_are_numbered_without_gaps_and_titled_with_their_number() -> None:
    paths = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in paths] == list(range(1, len(paths) + 1))
    for path in paths:
        assert path.read_text().startswith(f"# {int(path.name[:4])}. "), path.name


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents()
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert broken == []


def test_modules_that_documents_name_exist() -> None:
    """A path in backticks like ``agent/health.py`` is below the package or the repository."""
    missing = [
        f"{document.relative_to(ROOT)}: {name}"
        for document in documents()
        for name in re.findall(r"`([\w./-]+\.py)`", document.read_text())
        if not any((base / name).exists() for base in (ROOT, ROOT / "src/orbitcontrol", ROOT / "tests"))
    ]
    assert missing == []


def test_the_architecture_says_what_every_module_is_for() -> None:
    package = ROOT / "src/orbitcontrol"
    text = (ROOT / "docs/architecture.md").read_text()
    modules = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    generated = {name for name in modules if name.endswith("_pb2.py")}
    holding = {name for name in modules - generated if not name.endswith("__init__.py")}
    assert {name for name in holding if f"`{name}`" not in text} == set()


def test_ci_runs_what_everybody_runs() -> None:
    ci = ROOT / ".ci/run"
    assert os.access(ci, os.X_OK)
    assert "exec make check" in ci.read_text()


def test_every_target_of_the_makefile_says_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    assert set(re.findall(r"^(\w+):.*## \S", makefile, re.MULTILINE)) == set(phony[1].split())


def test_the_licence_is_there_in_full() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
