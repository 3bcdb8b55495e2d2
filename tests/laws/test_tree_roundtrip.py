"""Laws of trees: what is exported can be imported, and importing again plans nothing."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orbitcontrol.codec import entries as codec
from orbitcontrol.codec.jsontext import parse
from orbitcontrol.planning.imports import plan_import
from orbitcontrol.tree.load import load
from orbitcontrol.tree.write import files_of, write
from support.trees import TAGS, write_tree

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{1,8}", fullmatch=True)  # Docker takes no shorter one
file_names = st.from_regex(r"[A-Za-z0-9_*ü][A-Za-z0-9 ._ü-]{0,8}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8"), max_size=30)
sound_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
durations = st.one_of(st.integers(1, 10_000), st.sampled_from(["500ms", "2s", "1m30s"]))
text_maps = st.dictionaries(sound_texts, sound_texts, max_size=3)

checks = st.one_of(
    st.fixed_dictionaries(
        {"Type": st.just("http"), "Url": st.just("http://${ENDPOINT_HOST}:${ENDPOINT_PORT}/")},
        optional={
            "Interval": durations,
            "Rise": st.integers(1, 9),
            "Headers": text_maps,
            "Password": sound_texts,
        },
    ),
    st.fixed_dictionaries({"Type": st.just("tcp"), "HostPort": st.just("127.0.0.1:80")}),
    st.fixed_dictionaries({"Type": st.just("dummy")}, optional={"DummyResult": st.booleans()}),
)
engine_objects = st.fixed_dictionaries(
    {"Image": st.just("nginx:1")},
    optional={
        "Env": st.lists(st.from_regex(r"[A-Z]{1,3}=\w{0,5}", fullmatch=True), max_size=3),
        "Labels": text_maps,
        "Cmd": st.lists(sound_texts, max_size=2),
        "StopTimeout": st.integers(0, 60),
    },
)
optional_fields = {
    "Checks": st.lists(checks, max_size=3),
    "Attributes": text_maps,
    "Update": st.fixed_dictionaries(
        {}, optional={"MaxParallel": st.sampled_from([1, 3, "25%"]), "Stagger": durations}
    ),
}
containers = st.fixed_dictionaries(
    {"Config": engine_objects},
    optional={"HostConfig": st.fixed_dictionaries({}, optional={"Memory": st.integers(0, 2**40)})},
)
services = st.one_of(
    st.fixed_dictionaries({"EndpointPort": st.just(0)}, optional=optional_fields),
    st.fixed_dictionaries(
        {"Container": containers, "ContainerPort": st.integers(1, 65535)},
        optional={"Instances": st.integers(1, 5), **optional_fields},
    ),
)
bindings = st.fixed_dictionaries({}, optional={key: optional_fields[key] for key in ("Checks", "Attributes")})


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """Files of a sound tree by path."""
    files: dict[str, Any] = {"services/.gitkeep": ""}
    known = draw(st.lists(names, max_size=4, unique=True))
    for name in known:
        files[f"services/{name}.json"] = {"Name": name, **draw(services)}
    for tag in draw(st.lists(names, max_size=3, unique=True)):
        for name in draw(st.lists(st.sampled_from(known), unique=True)) if known else []:
            files[f"{TAGS}/{tag}/services/{name}.json"] = draw(bindings)
        if draw(st.booleans()):
            files[f"{TAGS}/{tag}/authoritative_names.json"] = draw(st.lists(names, max_size=2))
        if draw(st.booleans()):
            files[f"{TAGS}/{tag}/haproxy.tpl"] = draw(texts).encode()
            for folder in ("certs", "haproxy_files"):
                for file in draw(st.lists(file_names, max_size=2, unique=True)):
                    files[f"{TAGS}/{tag}/{folder}/{file}"] = draw(texts).encode()
    return files


def scrambled(value: Any, randomness: random.Random) -> Any:
    """The same document as another author would write it: other case, other order."""
    if isinstance(value, list):
        return [scrambled(item, randomness) for item in value]
    if not isinstance(value, dict):
        return value
    items = list(value.items())
    randomness.shuffle(items)
    return {
        "".join(randomness.choice((letter.lower(), letter.upper())) for letter in key): (
            item if key in {"Attributes", "Headers", "Labels"} else scrambled(item, randomness)
        )
        for key, item in items
    }


@settings(max_examples=60)
@given(trees())
def test_importing_an_export_plans_nothing(files: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = load(write_tree(Path(folder, "tree"), files))
        assert [str(problem) for problem in tree.problems] == []
        write(files_of(tree.entries), Path(folder, "export"))
        again = load(Path(folder, "export"))
        assert again.problems == ()
        assert again.entries == tree.entries
        assert plan_import(tree.entries, again.entries).is_empty


@settings(max_examples=60)
@given(trees(), st.randoms(use_true_random=False))
def test_case_and_order_of_keys_never_matter(files: dict[str, Any], randomness: random.Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = load(write_tree(Path(folder, "tree"), files))
        other = {path: scrambled(content, randomness) for path, content in files.items()}
        assert load(write_tree(Path(folder, "other"), other)).entries == tree.entries


@settings(max_examples=60)
@given(trees(), trees())
def test_a_plan_applied_leaves_nothing_to_plan(before: dict[str, Any], after: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        current = load(write_tree(Path(folder, "before"), before)).entries
        wanted = load(write_tree(Path(folder, "after"), after)).entries
    plan = plan_import(current, wanted)
    stored = dict(current)
    for change in plan.changes:
        if change.after is None:
            del stored[change.key]
        else:
            stored[change.key] = change.after
    assert stored == wanted
    assert plan_import(stored, wanted).is_empty


@given(st.text())
def test_the_json_reader_never_raises_and_agrees_with_the_standard_library(text: str) -> None:
    parsed = parse(text, file="f")
    if parsed.ok:
        assert codec.same_value(text.encode(), codec.encode_document(parsed.value))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | sound_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(sound_texts, inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_every_value_survives_its_encoding(value: Any) -> None:
    parsed = parse(codec.encode_document(value).decode(), file="f")
    assert parsed.ok
    assert parsed.value == value


@given(
    st.binary(max_size=60),
    st.sampled_from(["services/a.json", f"{TAGS}/t/services/a.json", "globalproperties.json"]),
)
def test_no_content_of_a_file_makes_loading_raise(content: bytes, path: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        load(write_tree(Path(folder), {path: content}))


@given(st.text(max_size=40))
def test_a_key_is_either_refused_or_the_key_of_the_path_it_names(key: str) -> None:
    entry = codec.parse_key(f"tags/t/certs/{key}")
    assert entry is None or (entry.key == f"tags/t/certs/{key}" and ".." not in entry.path.split("/"))
