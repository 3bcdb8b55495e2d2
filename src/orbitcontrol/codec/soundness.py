"""Whether there is nothing to say about a document, asked before ``documents`` looks for what to say.

Nearly every file of a large tree is in canonical spelling and without a fault. The walk in ``documents``
carries paths and wording for every value of it; to see that none of them is needed takes a tenth of that.
Here each type of the model becomes a predicate, once: True promises that the walk would note nothing and
change nothing (``tests/unit/codec/test_soundness.py`` holds the two together). False promises nothing: where
telling is not cheap, the document is walked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from msgspec import inspect

from orbitcontrol.codec.engine import CONFIG_FIELDS, HOST_CONFIG_FIELDS
from orbitcontrol.codec.engine_objects import engine_faults
from orbitcontrol.codec.scalars import scalar_fault
from orbitcontrol.model.service import Binding, Container, GlobalProperties, Relaunch, Service, Update

ENGINE_OBJECTS: dict[str, frozenset[str]] = {"Config": CONFIG_FIELDS, "HostConfig": HOST_CONFIG_FIELDS}
"""The fields of ``Container`` that are the Docker Engine API's own objects, with the names that it knows."""

_REVISION_IGNORED = "ignored: revisions live in the store; set one with `orbitctl service NAME set revision`"
IGNORED: dict[type, dict[str, str]] = {
    Service: {"Revision": _REVISION_IGNORED},
    Binding: {"Revision": _REVISION_IGNORED},
    GlobalProperties: {"AMQPUrl": "ignored: events live in the store, no AMQP broker is used"},
}
"""Fields that older trees have, by class, and what to tell about them."""

BARE_NUMBERS_ARE_DOUBTFUL = frozenset({Update, Relaunch})
"""Milliseconds are what checks always had; in these classes a person means seconds as often."""

_Sound = Callable[[Any], bool]


@cache
def soundness_of(expected: type) -> Callable[[Any], bool]:
    """The predicate for values of JSON that are to be an ``expected``."""
    return _of(inspect.type_info(expected))


def _of(expected: inspect.Type) -> _Sound:
    match expected:
        case inspect.StructType():
            return _object(expected)
        case inspect.UnionType(types=types):
            return _union(types)
        case inspect.DictType(value_type=inner):
            return _map(_of(inner))
        case inspect.ListType(item_type=inner) | inspect.VarTupleType(item_type=inner):
            return _list(_of(inner))
        case inspect.AnyType():
            return lambda _: True
    return _scalar(expected)


def _scalar(expected: inspect.Type) -> _Sound:
    match expected:
        case inspect.StrType(pattern=None, max_length=None):
            return lambda value: type(value) is str
        case inspect.BoolType():
            return lambda value: type(value) is bool
    return lambda value: scalar_fault(value, expected) is None


def _object(info: inspect.StructType) -> _Sound:
    fields = {
        field.encode_name: _field(field, info.cls)
        for field in info.fields
        if field.encode_name not in IGNORED.get(info.cls, {})
    }
    required = frozenset(field.encode_name for field in info.fields if field.required)
    if info.tag_field:
        fields[info.tag_field] = lambda value: value == info.tag
        required |= {info.tag_field}

    def is_sound(value: Any) -> bool:
        if type(value) is not dict or not required <= value.keys():
            return False
        for name, item in value.items():
            field = fields.get(name)
            if field is None or not field(item):
                return False
        return True

    return is_sound


def _field(field: inspect.Field, cls: type) -> _Sound:
    if cls is Container and field.encode_name in ENGINE_OBJECTS:
        return _engine_object(ENGINE_OBJECTS[field.encode_name])
    inner = _of(field.type)
    if cls in BARE_NUMBERS_ARE_DOUBTFUL and isinstance(field.type, inspect.CustomType):
        return lambda value: type(value) is str and inner(value)
    return inner


def _engine_object(known: frozenset[str]) -> _Sound:
    def is_sound(value: Any) -> bool:
        return (
            type(value) is dict
            and known.issuperset(value)
            and next(iter(engine_faults(value, "")), None) is None
        )

    return is_sound


def _union(types: Iterable[inspect.Type]) -> _Sound:
    """A check goes to the type that it names; of other members one has to take the value."""
    members = [each for each in types if not isinstance(each, inspect.NoneType)]
    nullable = len(members) < len(tuple(types))
    checks = {
        each.tag: (each.tag_field, _object(each))
        for each in members
        if isinstance(each, inspect.StructType) and each.tag_field
    }
    if len(checks) == len(members) > 1:
        field = next(iter(checks.values()))[0]
        by_tag = {tag: test for tag, (_, test) in checks.items()}

        def is_sound_check(value: Any) -> bool:
            tag = value.get(field) if type(value) is dict else None
            test = by_tag.get(tag) if type(tag) is str else None
            return test is not None and test(value)

        return is_sound_check
    tests = tuple(map(_of, members))
    if len(tests) == 1:
        only = tests[0]
        return (lambda value: value is None or only(value)) if nullable else only

    def is_sound(value: Any) -> bool:
        return (nullable and value is None) or any(test(value) for test in tests)

    return is_sound


def _map(inner: _Sound) -> _Sound:
    return lambda value: type(value) is dict and all(map(inner, value.values()))


def _list(inner: _Sound) -> _Sound:
    return lambda value: type(value) is list and all(map(inner, value))
