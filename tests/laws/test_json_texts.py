"""Laws of reading JSON: the quick way and the way that explains agree on every text."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orbitcontrol.codec.jsonfaults import explained
from orbitcontrol.codec.jsontext import parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
TEXTS = ('"a"', '"\\u0000"', '"\\ud800"', '"é"', "'a'", "true", "NaN", "-Infinity", "//", "\ufeff", "\0")
NUMBERS = ("1", "-0", "1e999", "1.5E-3", "01", "9223372036854775808")
FRAGMENTS = st.lists(st.sampled_from([*TEXTS, *NUMBERS, *":,{}[] \n"]), max_size=12).map("".join)

REPEATING = st.recursive(
    st.sampled_from(['"a:b"', '":"', "1", "12345678901234567890", '"\\u003a"', "1e22", "null"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.lists(st.tuples(st.sampled_from(['"a"', '"b:"', '"\\u0061"']), inner), max_size=3).map(
            lambda pairs: f"{{{','.join(f'{key} : {value}' for key, value in pairs)}}}"
        )
    ),
    max_leaves=8,
)
"""Objects that may have a key twice, and colons where no pair is."""


def _typed(value: Any) -> str:
    """Python holds 1, 1.0 and True for equal."""
    return json.dumps(value)


@given(
    VALUES.map(json.dumps)
    | VALUES.map(lambda value: json.dumps(value, ensure_ascii=False))
    | FRAGMENTS
    | REPEATING
)
def test_a_text_has_the_same_value_or_the_same_faults_either_way(text: str) -> None:
    quick, slow = parse(text, file="f.json"), explained(text, file="f.json")
    assert quick.findings == slow.findings
    assert _typed(quick.value) == _typed(slow.value)


@given(st.integers(min_value=0, max_value=70), st.sampled_from(["[]", '{"a":}']))
def test_depth_is_bounded_either_way(depth: int, brackets: str) -> None:
    text = brackets[:-1] * depth + "1" + brackets[-1] * depth
    assert parse(text, file="f.json") == explained(text, file="f.json")
