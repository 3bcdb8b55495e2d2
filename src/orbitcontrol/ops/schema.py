"""``schema``: JSON Schema of the tree's files, for editors.

Made from the same Struct types that files are read with, by a walk of its own: msgspec's generator
knows neither durations nor older spellings. An editor's schema cannot be blind to case as Orbit is, so
it knows the canonical spelling only; what it underlines may still be read.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import inspect

from orbitcontrol.codec.documents import aliases_of
from orbitcontrol.codec.engine import CONFIG_FIELDS, HOST_CONFIG_FIELDS, KINDS
from orbitcontrol.model.durations import Duration
from orbitcontrol.model.service import Binding, Container, GlobalProperties, Service

SchemaKind = Literal["service", "tag", "global"]
KINDS_OF_SCHEMA: tuple[SchemaKind, ...] = ("service", "tag", "global")

_ROOTS: dict[SchemaKind, tuple[type, str]] = {
    "service": (Service, "services/<service>.json"),
    "tag": (Binding, "machineconfigurations/tags/<tag>/services/<service>.json"),
    "global": (GlobalProperties, "globalproperties.json"),
}
_NOTE = "Orbit matches names without regard to case; this schema knows their canonical spelling."
_TEXT: dict[str, Any] = {"type": "string"}
_TEXTS: dict[str, Any] = {"type": "array", "items": _TEXT}
_ENGINE_TYPES: dict[str, dict[str, Any]] = {
    "text": _TEXT,
    "texts": _TEXTS,
    "environment": {"type": "array", "items": {"type": "string", "pattern": "^[^=]+(=|$)"}},
    "text map": {"type": "object", "additionalProperties": _TEXT},
    "object": {"type": "object"},
    "command": {"anyOf": [_TEXT, _TEXTS]},
}
_DURATION = {
    "type": ["string", "number"],
    "pattern": r"^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$",
    "minimum": 0,
    "description": 'A duration like "500ms", "10s" or "2m"; a plain number is milliseconds.',
}


def schema(kind: SchemaKind) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one kind of file."""
    root, place = _ROOTS[kind]
    info = inspect.type_info(root)
    definitions = _Definitions()
    reference = definitions.of(info)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": place,
        "description": _NOTE,
        **reference,
        "$defs": dict(sorted(definitions.made.items())),
    }


class _Definitions:
    """Schemas by Struct name; every Struct becomes one definition."""

    def __init__(self) -> None:
        self.made: dict[str, dict[str, Any]] = {}

    def of(self, info: inspect.Type) -> dict[str, Any]:
        match info:
            case inspect.StructType():
                return self._struct(info)
            case inspect.UnionType():
                members = [self.of(each) for each in info.types]
                return members[0] if len(members) == 1 else {"anyOf": members}
            case inspect.DictType():
                return {"type": "object", "additionalProperties": self.of(info.value_type)}
            case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
                return {"type": "array", "items": self.of(item)}
        return _scalar(info)

    def _struct(self, info: inspect.StructType) -> dict[str, Any]:
        name = info.cls.__name__
        if name not in self.made:
            self.made[name] = {}
            self.made[name] = self._object(info)
        return {"$ref": f"#/$defs/{name}"}

    def _object(self, info: inspect.StructType) -> dict[str, Any]:
        properties = {field.encode_name: self._property(info.cls, field) for field in info.fields}
        required = [field.encode_name for field in info.fields if field.required]
        if info.tag_field:
            properties = {info.tag_field: {"const": info.tag}, **properties}
            required.insert(0, info.tag_field)
        for old, new in aliases_of(info.cls).items():
            properties[old] = {**properties[new], "deprecated": True, "description": f"Older name of {new}."}
        return {
            "type": "object",
            "description": (info.cls.__doc__ or "").strip().replace("``", "`"),
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    def _property(self, cls: type, field: inspect.Field) -> dict[str, Any]:
        if cls is Container:
            return _engine_object(CONFIG_FIELDS if field.encode_name == "Config" else HOST_CONFIG_FIELDS)
        made = self.of(field.type)
        if isinstance(field.default, str | int | float):
            shown = str(field.default) if isinstance(field.default, Duration) else field.default
            return {**made, "default": shown}
        return made


def _engine_object(fields: frozenset[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": "An object of the Docker Engine API, passed through.",
        "properties": {name: _ENGINE_TYPES[KINDS[name]] if name in KINDS else {} for name in sorted(fields)},
    }


def _scalar(info: inspect.Type) -> dict[str, Any]:
    made: dict[str, Any] = {}
    match info:
        case inspect.IntType():
            made = {"type": "integer", "minimum": info.ge, "maximum": info.le}
        case inspect.StrType():
            made = {"type": "string", "pattern": info.pattern, "maxLength": info.max_length}
        case inspect.BoolType():
            made = {"type": "boolean"}
        case inspect.NoneType():
            made = {"type": "null"}
        case inspect.LiteralType():
            made = {"enum": sorted(info.values, reverse=True)}
        case inspect.CustomType(cls=cls) if cls is Duration:
            made = _DURATION
    return {key: value for key, value in made.items() if value is not None}
