"""Laws of reading JSON: the quick way and the way that explains agree on every text."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orbitcontrol.codec import jsontext
from orbitcontrol.codec.jsontext import parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
TEXTS = ('"a"', '"\\u0000"', '"\\ud800"', '"é"', "'a'", "true", "NaN", "-Infinity", "//", "\ufeff", "\0")
NUMBERS = ("1", "-0", "1e999", "1.5E-3", "01", "9223372036854775808")
FRAGMENTS = st.lists(st.sampled_from([*TEXTS, *NUMBERS, *":,{}[] \n"]), max_size=12).map("".join)


def explained(text: str) -> Any:
    return jsontext._explained(text, file="f.json")


def _typed(value: Any) -> str:
    """Python holds 1, 1.0 and True for equal."""
    return json.dumps(value)


@given(VALUES.map(json.dumps) | VALUES.map(lambda value: json.dumps(value, ensure_ascii=False)) | FRAGMENTS)
def test_a_text_has_the_same_value_or_the_same_faults_either_way(text: str) -> None:
    quick, slow = parse(text, file="f.json"), explained(text)
    assert quick.findings == slow.findings
    assert _typed(quick.value) == _typed(slow.value)


@given(st.integers(min_value=0, max_value=70), st.sampled_from(["[]", '{"a":}']))
def test_depth_is_bounded_either_way(depth: int, brackets: str) -> None:
    text = brackets[:-1] * depth + "1" + brackets[-1] * depth
    assert parse(text, file="f.json") == explained(text)
