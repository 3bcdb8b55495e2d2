"""A directory to the entries of the store, with everything that is wrong with it.

Loading never stops at the first fault: each file is read on its own, then the rules that hold between
files are applied to what could be read. ``entries`` is what an import would write; it is of use only
when there are no problems.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from orbitcontrol.codec import entries as codec
from orbitcontrol.codec.configuration import parse_entries
from orbitcontrol.codec.documents import Document, read_document
from orbitcontrol.codec.entries import EntryKey, Kind
from orbitcontrol.codec.jsontext import decode_utf8
from orbitcontrol.codec.wording import nearest
from orbitcontrol.errors import TreeError
from orbitcontrol.model.configuration import Configuration
from orbitcontrol.model.findings import Finding, problems_of, warnings_of
from orbitcontrol.model.service import Binding, GlobalProperties, Service
from orbitcontrol.model.stored import ETCD_LIMITS
from orbitcontrol.tree.files import TreeFiles
from orbitcontrol.tree.rules import check_rules

_DOCUMENTS: dict[Kind, type] = {
    "global": GlobalProperties,
    "service": Service,
    "binding": Binding,
    "authoritative_names": tuple[str, ...],
}
_TOP = ("globalproperties.json", "services", "machineconfigurations")
_IN_TAG = ("services", "authoritative_names.json", "haproxy.tpl", "certs", "haproxy_files")
_NAME_RULE = "a name may hold letters, digits, '.', '_' and '-', and begins with a letter or a digit"
_ROOM_FOR_KEY = 1024


class LoadedTree(Struct, frozen=True, kw_only=True):
    """A tree as it was read: ``entries`` by key below ``config/``, their meaning, and what was found.

    ``service_names`` are all services that have a file, sound or not. ``findings`` have the problems
    first, each kind by file.
    """

    entries: dict[str, bytes]
    configuration: Configuration
    service_names: frozenset[str] = frozenset()
    findings: tuple[Finding, ...] = ()

    @property
    def problems(self) -> tuple[Finding, ...]:
        return problems_of(self.findings)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return warnings_of(self.findings)

    def with_findings(self, more: Iterable[Finding]) -> LoadedTree:
        """The same tree with what somebody else found in it."""
        return structs.replace(self, findings=_sorted([*self.findings, *more]))


def load(directory: Path, *, allow_unknown: bool = False, largest: int = ETCD_LIMITS.bytes) -> LoadedTree:
    """Reads the tree. ``largest``: the bytes that the store takes as one entry, key and value together.

    Raises ``TreeError`` only when the directory is no tree at all; everything else is a finding.
    """
    _require_tree(directory)
    loader = _Loader(TreeFiles(directory, largest=largest), allow_unknown=allow_unknown, largest=largest)
    loader.run()
    parsed = parse_entries(loader.entries, known=loader.values)
    findings = [*loader.files.findings, *check_rules(parsed.configuration, present=loader.present)]
    findings += [Finding(file=key, message=reason) for key, reason in parsed.broken.items()]
    return LoadedTree(
        entries=dict(sorted(loader.entries.items())),
        configuration=parsed.configuration,
        service_names=frozenset(
            key.removeprefix("services/") for key in loader.present if key.startswith("services/")
        ),
        findings=_sorted(findings),
    )


def _sorted(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: (not finding.is_problem, finding.file)))


def _require_tree(directory: Path) -> None:
    if not directory.exists():
        raise TreeError([f"{directory}: there is no such directory"])
    if not directory.is_dir():
        raise TreeError([f"{directory}: is not a directory; name the folder that holds services/"])
    try:
        names = {child.name for child in directory.iterdir()}
    except OSError as error:
        raise TreeError([f"{directory}: cannot be read: {error.strerror}"]) from error
    if names.isdisjoint(_TOP):
        has_none = f"it has none of {', '.join(_TOP)}"
        hint = "`orbitctl init DIR` writes one to start from"
        raise TreeError([f"{directory}: is not a configuration tree: {has_none}; {hint}"])


class _Loader:
    """One pass over a tree's folders.

    ``present`` are the keys that have a file, sound or not; ``values`` is what the documents among
    ``entries`` mean.
    """

    def __init__(self, files: TreeFiles, *, allow_unknown: bool, largest: int) -> None:
        self.files = files
        self.entries: dict[str, bytes] = {}
        self.values: dict[str, Any] = {}
        self.present: set[str] = set()
        self._allow_unknown = allow_unknown
        self._largest = largest

    def run(self) -> None:
        for name in self._known(self.files.children("."), _TOP, folder=""):
            match name:
                case "globalproperties.json":
                    self._document(EntryKey(kind="global"))
                case "services":
                    self._documents("services", "service")
                case _:
                    self._machine_configurations()

    def _machine_configurations(self) -> None:
        folder = "machineconfigurations"
        if self._is_folder(folder):
            for _ in self._known(self.files.children(folder), ("tags",), folder=folder):
                self._tags()

    def _tags(self) -> None:
        if not self._is_folder(codec.TAGS_FOLDER):
            return
        tags = []
        for name in self.files.children(codec.TAGS_FOLDER):
            path = f"{codec.TAGS_FOLDER}/{name}"
            if name.startswith("."):
                self.files.stray(path, "hidden")
            elif not self.files.is_folder(path):
                self.files.stray(path, "a tag is a folder")
            elif not codec.is_name(name):
                self.files.problem(path, f"a tag cannot be called so; {_NAME_RULE}")
            else:
                tags.append(name)
                self._tag(name)
        self._refuse_look_alikes(tags, [f"{codec.TAGS_FOLDER}/{name}" for name in tags])

    def _tag(self, tag: str) -> None:
        folder = f"{codec.TAGS_FOLDER}/{tag}"
        before = len(self.entries) + len(self.files.findings)
        for name in self._known(self.files.children(folder), _IN_TAG, folder=folder):
            match name:
                case "services":
                    self._documents(f"{folder}/services", "binding", tag=tag)
                case "authoritative_names.json":
                    self._document(EntryKey(kind="authoritative_names", tag=tag))
                case "haproxy.tpl":
                    self._text(EntryKey(kind="template", tag=tag))
                case "certs":
                    self._texts(f"{folder}/certs", "certificate", tag=tag)
                case _:
                    self._texts(f"{folder}/haproxy_files", "haproxy_file", tag=tag)
        if len(self.entries) + len(self.files.findings) == before:
            self.files.warning(folder, "this tag holds nothing, so it will not exist")

    def _documents(self, folder: str, kind: Kind, *, tag: str = "") -> None:
        if not self._is_folder(folder):
            return
        names = []
        for file in self.files.children(folder):
            path = f"{folder}/{file}"
            name = file.removesuffix(".json")
            if name == file:
                self.files.stray(path, "files here end in .json")
            elif not codec.is_name(name):
                self.files.problem(path, f"a service cannot be called so; {_NAME_RULE}")
            else:
                names.append(name)
                self._document(EntryKey(kind=kind, tag=tag, name=name))
        self._refuse_look_alikes(names, [f"{folder}/{name}.json" for name in names])

    def _texts(self, folder: str, kind: Kind, *, tag: str) -> None:
        if not self._is_folder(folder):
            return
        for name in self.files.children(folder):
            path = f"{folder}/{name}"
            if name.startswith("."):
                self.files.stray(path, "hidden")
            elif not codec.is_file_name(name):
                self.files.problem(path, "a file cannot be called so; use visible characters only")
            elif self.files.is_folder(path):
                self.files.stray(path, "only files are read here")
            else:
                self._text(EntryKey(kind=kind, tag=tag, name=name))

    def _document(self, entry: EntryKey) -> None:
        self.present.add(entry.key)
        raw = self.files.read(entry.path)
        if raw is None:
            return
        document: Document[Any] = read_document(
            raw, _DOCUMENTS[entry.kind], file=entry.path, allow_unknown=self._allow_unknown
        )
        self.files.findings.extend(document.findings)
        name = _name_in(document.value)
        if entry.name and name is not None and name != entry.name:
            self.files.findings.append(
                Finding(
                    file=entry.path,
                    where="Name",
                    message=f'is "{name}", but the file is called {entry.name}.json; make them the same',
                )
            )
        elif document.value is not None:
            self.values[entry.key] = document.value
            self._add(entry, codec.encode_document(document.plain))

    def _text(self, entry: EntryKey) -> None:
        self.present.add(entry.key)
        raw = self.files.read(entry.path)
        if raw is None:
            return
        content = decode_utf8(raw, file=entry.path)
        if isinstance(content, Finding):
            self.files.findings.append(content)
        else:
            self._add(entry, codec.encode_text(content))

    def _add(self, entry: EntryKey, value: bytes) -> None:
        size = len(value) + len(entry.key.encode()) + _ROOM_FOR_KEY
        if size > self._largest:
            self.files.problem(
                entry.path,
                f"is larger than the store takes: {len(value):,} bytes as an entry, "
                f"{self._largest - _ROOM_FOR_KEY:,} fit; make it smaller",
            )
        else:
            self.entries[entry.key] = value

    def _known(self, names: list[str], known: tuple[str, ...], *, folder: str) -> list[str]:
        """Those names that the layout has; notes the others."""
        for name in set(names) - set(known):
            near = nearest(name, known)
            why = f"did you mean {near}?" if near else f"only {', '.join(known)} belong here"
            self.files.stray(f"{folder}/{name}" if folder else name, why)
        return [name for name in names if name in known]

    def _is_folder(self, path: str) -> bool:
        """True for a usable folder; anything else under this name is a problem."""
        before = len(self.files.findings)
        if self.files.is_folder(path):
            return True
        if len(self.files.findings) == before:
            self.files.problem(path, "is not a folder; put a folder here, or remove it")
        return False

    def _refuse_look_alikes(self, names: list[str], paths: list[str]) -> None:
        """Names that differ only in case: one file system or reader takes them for one."""
        first: dict[str, str] = {}
        for name, path in zip(names, paths, strict=True):
            other = first.setdefault(name.lower(), name)
            if other != name:
                self.files.problem(path, f'"{name}" and "{other}" differ only in case; rename one of them')


def _name_in(value: Any) -> str | None:
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else None
