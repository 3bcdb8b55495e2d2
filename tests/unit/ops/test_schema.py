"""The schema for editors says what the reader of files says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped] # its stubs would be one more package
import pytest

from orbitcontrol.codec.documents import read_value
from orbitcontrol.codec.entries import parse_key
from orbitcontrol.model.service import Service
from orbitcontrol.ops.schema import KINDS_OF_SCHEMA, SchemaKind, schema
from orbitcontrol.tree.load import load
from support.trees import LEGACY_TREE

EXAMPLES = Path(__file__).parents[3] / "examples/quickstart"


@pytest.mark.parametrize("kind", KINDS_OF_SCHEMA)
def test_it_is_a_sound_schema_that_notes_its_case(kind: SchemaKind) -> None:
    made = schema(kind)
    jsonschema.Draft202012Validator.check_schema(made)
    assert "without regard to case" in made["description"]


@pytest.mark.parametrize("root", [LEGACY_TREE, EXAMPLES])
def test_trees_in_canonical_spelling_follow_it(root: Path) -> None:
    kinds: dict[str, SchemaKind] = {"service": "service", "binding": "tag", "global": "global"}
    checked = 0
    for key, value in load(root).entries.items():
        entry = parse_key(key)
        assert entry is not None
        if entry.kind in kinds:
            jsonschema.validate(json.loads(value), schema(kinds[entry.kind]))
            checked += 1
    assert checked >= 3


CHECK = {"Type": "http", "Url": "http://h/"}


@pytest.mark.parametrize(
    ("fields", "sound"),
    [
        ({}, True),
        ({"EndpointPort": 80, "Checks": [CHECK]}, True),
        ({"Checks": [{**CHECK, "Interval": "1m30s", "Rise": 2}]}, True),
        ({"Checks": [{**CHECK, "Delay": 500}]}, True),
        ({"SourceControl": {"OAuth": "x", "CIUrl": None}}, True),
        ({"Update": {"MaxParallel": "25%", "Order": "start-first"}}, True),
        ({"Container": {"Config": {"Image": "a", "Env": ["A=1", "B"]}, "HostConfig": {"Quux": 1}}}, True),
        ({"EndpointPort": 65536}, False),
        ({"Instances": 0}, False),
        ({"Colour": "red"}, False),
        ({"Checks": [{"Type": "http"}]}, False),
        ({"Checks": [{"Type": "nope"}]}, False),
        ({"Checks": [{**CHECK, "Urll": "x"}]}, False),
        ({"Checks": [{**CHECK, "Interval": "1 s"}]}, False),
        ({"Checks": [{**CHECK, "Interval": -1}]}, False),
        ({"Update": {"MaxParallel": "150%"}}, False),
        ({"Container": {"Config": {"Env": {"A": "1"}}}}, False),
        ({"Attributes": {"a": 1}}, False),
    ],
)
def test_schema_and_reader_agree(fields: dict[str, Any], *, sound: bool) -> None:
    document = {"Name": "web", **fields}
    assert jsonschema.Draft202012Validator(schema("service")).is_valid(document) is sound
    found = read_value(document, Service, file="f").findings
    assert any(finding.is_problem for finding in found) is not sound
