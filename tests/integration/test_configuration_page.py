"""The examples of the configuration reference make a tree, and it is sound down to HAProxy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema  # type: ignore[import-untyped] # its stubs would be one more package
import pytest

from orbitcontrol.haproxy.validate import check_template
from orbitcontrol.model.service import Binding, CheckBase, GlobalProperties, Relaunch, Service, Update
from orbitcontrol.ops.schema import KINDS_OF_SCHEMA, schema
from orbitcontrol.ops.validating import validate
from support.trees import TAGS, write_tree

pytestmark = pytest.mark.integration

PAGE = (Path(__file__).parents[2] / "docs/configuration.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- (\S+) -->\n```\w*\n(.*?)```\n", PAGE, re.DOTALL))


async def test_the_examples_of_the_page_are_one_sound_tree(tmp_path: Path) -> None:
    tree = await validate(write_tree(tmp_path, EXAMPLES), check_template=check_template)
    assert [str(finding) for finding in tree.findings] == []
    assert tree.configuration.services.keys() == {"web", "database", "mailer"}
    assert tree.configuration.tags.keys() == {"staging", "lb"}


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [("service", "services/"), ("tag", f"{TAGS}/staging/services/"), ("global", "globalproperties")],
)
def test_the_examples_of_the_page_follow_the_schema(kind: str, pattern: str) -> None:
    (known,) = [each for each in KINDS_OF_SCHEMA if each == kind]
    examples = [text for path, text in EXAMPLES.items() if path.startswith(pattern)]
    assert examples
    for text in examples:
        jsonschema.Draft202012Validator(schema(known)).validate(json.loads(text))


@pytest.mark.parametrize("fields_of", [Service, Binding, GlobalProperties, Update, Relaunch, CheckBase])
def test_every_field_is_on_the_page(fields_of: type[Service]) -> None:
    missing = [name for name in fields_of.__struct_encode_fields__ if f"`{name}`" not in PAGE]
    assert [name for name in missing if f"`{name}." not in PAGE] == []
