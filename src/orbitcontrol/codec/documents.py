"""A file of the tree as people write it, to the canonical document and its value.

msgspec stops at the first fault, passes unknown fields over, and takes ``Url`` and ``url`` for two
names. Here the document is walked along the same Struct types instead, so that one run reports every
fault with its path (``Checks[0].Urll: unknown field; did you mean Url?``). Keys are matched without
case and rewritten to PascalCase; the keys of free maps (``Attributes``, ``Headers``, ``Labels``) are
their author's and stay. The canonical document holds what the author wrote and nothing more: no
defaults, so that a later version's better default reaches old trees.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Generic, TypeVar, cast

import msgspec
from msgspec import Struct, inspect

from orbitcontrol.codec.engine_objects import engine_faults
from orbitcontrol.codec.jsontext import decode_utf8, parse
from orbitcontrol.codec.scalars import scalar_fault
from orbitcontrol.codec.soundness import BARE_NUMBERS_ARE_DOUBTFUL, ENGINE_OBJECTS, IGNORED, soundness_of
from orbitcontrol.codec.values import from_plain
from orbitcontrol.codec.wording import alternatives, element, kind_of, member, nearest
from orbitcontrol.model.findings import Finding
from orbitcontrol.model.service import Binding, CheckBase, Container, Service, SourceControl

T = TypeVar("T")

ALIASES: dict[type, dict[str, str]] = {
    CheckBase: {"Delay": "Interval"},
    SourceControl: {"OAuth": "OAuthToken"},
}
"""Older spellings of fields, by the class (or base) that has them."""


class Document(Struct, Generic[T], frozen=True, kw_only=True):
    """A file read: ``plain`` is canonical JSON and ``value`` its meaning; both None with a problem."""

    plain: Any = None
    value: T | None = None
    findings: tuple[Finding, ...] = ()


def read_document(raw: bytes, expected: type[T], *, file: str, allow_unknown: bool = False) -> Document[T]:
    """Reads a file's bytes as ``expected``. Every fault is among the findings; nothing is raised."""
    text = decode_utf8(raw, file=file)
    if isinstance(text, Finding):
        return Document(findings=(text,))
    parsed = parse(text, file=file)
    if not parsed.ok:
        return Document(findings=parsed.findings)
    return read_value(parsed.value, expected, file=file, allow_unknown=allow_unknown)


def read_value(value: Any, expected: type[T], *, file: str, allow_unknown: bool = False) -> Document[T]:
    """The same for JSON that is parsed already."""
    if soundness_of(expected)(value):  # type: ignore[arg-type] # mypy doubts that type[T] can be hashed
        return _typed(value, expected, file=file, findings=())
    return walked(value, expected, file=file, allow_unknown=allow_unknown)


def walked(value: Any, expected: type[T], *, file: str, allow_unknown: bool = False) -> Document[T]:
    """The same, whatever the value: each fault is found, each key rewritten."""
    walk = _Walk(file, allow_unknown=allow_unknown)
    plain = walk.value(value, _type_info(expected), "")  # type: ignore[arg-type] # as above
    findings = tuple(walk.findings)
    if any(finding.is_problem for finding in findings):
        return Document(findings=findings)
    return _typed(plain, expected, file=file, findings=findings)


def _typed(plain: Any, expected: type[T], *, file: str, findings: tuple[Finding, ...]) -> Document[T]:
    try:
        typed = msgspec.convert(plain, expected, dec_hook=from_plain)
    except msgspec.ValidationError as error:
        # The walk knows every type of today's model; this is for a type that joins it tomorrow.
        return Document(findings=(*findings, Finding(file=file, message=str(error))))
    return Document(plain=plain, value=typed, findings=findings)


@cache
def _type_info(expected: type) -> inspect.Type:
    return inspect.type_info(expected)


def aliases_of(cls: type) -> dict[str, str]:
    """Old spelling to canonical name, for a Struct and its bases."""
    return {old: new for base in cls.__mro__ for old, new in ALIASES.get(base, {}).items()}


class _Shape(Struct, frozen=True, kw_only=True):
    """What the walk asks of a Struct type, over and over: worked out once.

    ``known`` leads from every spelling in small letters to the canonical name.
    """

    cls: type
    fields: dict[str, inspect.Field]
    known: dict[str, str]
    spellings: frozenset[str]
    required: tuple[str, ...]
    ignored: dict[str, str]


@cache
def _shape_of(cls: type) -> _Shape:
    info = cast(inspect.StructType, inspect.type_info(cls))
    fields = {field.encode_name: field for field in info.fields}
    names = [*fields, info.tag_field] if info.tag_field else list(fields)
    aliases, ignored = aliases_of(cls), IGNORED.get(cls, {})
    known = _by_lower(frozenset((*names, *ignored))) | {old.lower(): new for old, new in aliases.items()}
    return _Shape(
        cls=cls,
        fields=fields,
        known=known,
        spellings=frozenset((*names, *aliases)),
        required=tuple(field.encode_name for field in info.fields if field.required),
        ignored=ignored,
    )


@cache
def _by_lower(names: frozenset[str]) -> dict[str, str]:
    return {name.lower(): name for name in names}


class _Walk:
    """One pass over one document; collects findings and returns canonical JSON."""

    def __init__(self, file: str, *, allow_unknown: bool) -> None:
        self.findings: list[Finding] = []
        self._file = file
        self._allow_unknown = allow_unknown

    def problem(self, path: str, message: str) -> None:
        self.findings.append(Finding(file=self._file, where=path, message=message))

    def warning(self, path: str, message: str) -> None:
        self.findings.append(Finding(file=self._file, where=path, message=message, severity="warning"))

    def value(self, value: Any, expected: inspect.Type, path: str) -> Any:
        """The value in canonical form; what cannot be used is noted and returned as it is."""
        match expected:
            case inspect.StructType():
                return self._object(value, expected, path)
            case inspect.UnionType():
                return self._union(value, expected, path)
            case inspect.DictType():
                return self._map(value, expected, path)
            case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
                return self._list(value, item, path)
            case inspect.AnyType():
                return value
        fault = scalar_fault(value, expected)
        if fault:
            self.problem(path, fault)
        return value

    def _object(self, value: Any, expected: inspect.StructType, path: str) -> Any:
        if not isinstance(value, dict):
            self.problem(path, f"expected an object in {{ }}, not {kind_of(value)}")
            return value
        shape = _shape_of(expected.cls)
        keyed = self._canonical_keys(value, shape, path)
        self._require(keyed, shape, path)
        result: dict[str, Any] = {}
        for name, item in keyed.items():
            if name in shape.ignored and item not in (None, ""):
                self.warning(member(path, name), shape.ignored[name])
            if name in shape.fields:
                result[name] = self._field(item, shape.fields[name], shape.cls, member(path, name))
            elif name not in shape.ignored:
                result[name] = item
        return result

    def _field(self, value: Any, field: inspect.Field, cls: type, path: str) -> Any:
        known = ENGINE_OBJECTS.get(field.encode_name) if cls is Container else None
        if known is None:
            if cls in BARE_NUMBERS_ARE_DOUBTFUL and isinstance(field.type, inspect.CustomType):
                self._bare_duration(value, path)
            return self.value(value, field.type, path)
        if not isinstance(value, dict):
            self.problem(path, f"expected an object in {{ }}, not {kind_of(value)}")
            return value
        keyed = self._engine_keys(value, known, path)
        for where, message, is_problem in engine_faults(keyed, path):
            (self.problem if is_problem else self.warning)(where, message)
        return keyed

    def _bare_duration(self, value: Any, path: str) -> None:
        """Milliseconds are what checks always had; elsewhere a person means seconds as often."""
        if isinstance(value, int | float) and value > 0 and not isinstance(value, bool):
            self.warning(path, f'a plain number is milliseconds; write "{value}ms" or "{value}s" to be clear')

    def _canonical_keys(self, value: dict[str, Any], shape: _Shape, path: str) -> dict[str, Any]:
        return self._renamed(value, shape.known, path, unknown=lambda key: self._unknown(key, shape, path))

    def _engine_keys(self, value: dict[str, Any], known: frozenset[str], path: str) -> dict[str, Any]:
        return self._renamed(
            value, _by_lower(known), path, unknown=lambda key: self._unknown_to_engine(key, known, path)
        )

    def _renamed(
        self, value: dict[str, Any], known: dict[str, str], path: str, *, unknown: Callable[[str], None]
    ) -> dict[str, Any]:
        """The object under canonical names; two keys that come to the same name are a problem."""
        result: dict[str, Any] = {}
        written: dict[str, str] = {}
        for key, item in value.items():
            name = known.get(key.lower())
            if name is None:
                unknown(key)
                name = key
            if name.lower() in written:
                self.problem(
                    member(path, key), f"the same field as {written[name.lower()]}; keep one of them"
                )
                continue
            written[name.lower()] = key
            result[name] = item
        return result

    def _unknown(self, key: str, shape: _Shape, path: str) -> None:
        where = member(path, key)
        if shape.cls is Binding and key.lower() in {f.lower() for f in _encode_names(Service)}:
            message = "a tag cannot override this field; set it in the service's own file"
        else:
            near = nearest(key, shape.spellings)
            message = f"unknown field; did you mean {near}?" if near else "unknown field; remove it"
        (self.warning if self._allow_unknown else self.problem)(where, message)

    def _unknown_to_engine(self, key: str, known: frozenset[str], path: str) -> None:
        where = member(path, key)
        near = nearest(key, known)
        if near is None:
            self.warning(where, "not a field of the Docker Engine API that Orbit knows; passed on as it is")
            return
        message = f"unknown field of the Docker Engine API; did you mean {near}?"
        (self.warning if self._allow_unknown else self.problem)(where, message)

    def _require(self, value: dict[str, Any], shape: _Shape, path: str) -> None:
        for name in shape.required:
            if name not in value:
                self.problem(member(path, name), "is required, but missing")

    def _union(self, value: Any, expected: inspect.UnionType, path: str) -> Any:
        members = [each for each in expected.types if not isinstance(each, inspect.NoneType)]
        if value is None and len(members) < len(expected.types):
            return None
        if len(members) == 1:
            return self.value(value, members[0], path)
        if all(isinstance(each, inspect.StructType) and each.tag_field for each in members):
            return self._tagged(
                value, [each for each in members if isinstance(each, inspect.StructType)], path
            )
        for each in members:
            if _takes(each, value):
                return self.value(value, each, path)
        self.problem(
            path, f"expected {alternatives(_name_of(each) for each in members)}, not {kind_of(value)}"
        )
        return value

    def _tagged(self, value: Any, members: list[inspect.StructType], path: str) -> Any:
        """A check: its ``Type`` says which fields it may have."""
        if not isinstance(value, dict):
            self.problem(path, f"expected an object in {{ }}, not {kind_of(value)}")
            return value
        tag_field = str(members[0].tag_field)
        by_tag = {str(each.tag): each for each in members}
        tag = next((item for key, item in value.items() if key.lower() == tag_field.lower()), None)
        if isinstance(tag, str) and tag in by_tag:
            return self._object(value, by_tag[tag], path)
        known = f"the types are {', '.join(by_tag)}"
        if tag is None:
            self.problem(member(path, tag_field), f"is required, but missing; {known}")
        elif not isinstance(tag, str):
            self.problem(member(path, tag_field), f"expected a text, not {kind_of(tag)}; {known}")
        else:
            near = nearest(tag, by_tag)
            hint = f'did you mean "{near}"? ' if near else ""
            self.problem(member(path, tag_field), f'unknown type "{tag}"; {hint}{known}')
        return value

    def _map(self, value: Any, expected: inspect.DictType, path: str) -> Any:
        if not isinstance(value, dict):
            self.problem(path, f"expected an object in {{ }}, not {kind_of(value)}")
            return value
        return {key: self.value(item, expected.value_type, member(path, key)) for key, item in value.items()}

    def _list(self, value: Any, item_type: inspect.Type, path: str) -> Any:
        if not isinstance(value, list):
            self.problem(path, f"expected a list in [ ], not {kind_of(value)}")
            return value
        return [self.value(item, item_type, element(path, index)) for index, item in enumerate(value)]


def _encode_names(cls: type[Struct]) -> tuple[str, ...]:
    return cls.__struct_encode_fields__


def _takes(expected: inspect.Type, value: Any) -> bool:
    """Whether a union's member is the one that a value of this JSON kind belongs to."""
    match expected:
        case inspect.StrType():
            return isinstance(value, str)
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool)
        case inspect.ListType() | inspect.VarTupleType():
            return isinstance(value, list)
        case _:
            return False


def _name_of(expected: inspect.Type) -> str:
    match expected:
        case inspect.IntType():
            return "a whole number"
        case inspect.ListType() | inspect.VarTupleType():
            return "a list of texts"
        case _:
            return "a text"
