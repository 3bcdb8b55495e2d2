"""What an import would change, told without secrets, and the transaction that does it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orbitcontrol.codec.entries import encode_document, encode_text
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.model.state import ConfigMeta, Source
from orbitcontrol.model.stored import Absent, Delete, KeyValue, Limits, Put, Range, Unchanged
from orbitcontrol.planning.imports import ImportPlan, import_transaction, next_meta, plan_import

KEYS = Keys()
META = ConfigMeta(epoch="e", generation=7, imported_at="t", imported_by="alice")


def lines(before: Any, after: Any, key: str = "services/web") -> list[str]:
    """The plan's lines for one document that changed."""
    return list(plan_import({key: encode_document(before)}, {key: encode_document(after)}).lines())


def template_lines(before: str, after: str) -> list[str]:
    key = "tags/lb/haproxy_config"
    return list(plan_import({key: encode_text(before)}, {key: encode_text(after)}).lines())


class TestPlan:
    def test_what_is_new_gone_and_different_is_named_in_order(self) -> None:
        plan = plan_import(
            {"services/a": b"{}", "services/b": b'{"Instances":1}', "tags/t/services/a": b"{}"},
            {"services/b": b'{"Instances":2}', "services/c": b"{}", "tags/t/services/a": b"{}"},
        )
        assert list(plan.lines()) == ["- services/a", "~ services/b: Instances: 1 → 2", "+ services/c"]
        assert (plan.count("added"), plan.count("changed"), plan.count("removed")) == (1, 1, 1)
        assert plan.unchanged == 1
        assert plan.removes == ("services/a",)
        assert not plan.is_empty

    def test_the_same_is_an_empty_plan(self) -> None:
        assert plan_import({"services/a": b"{}"}, {"services/a": b"{}"}) == ImportPlan(unchanged=1)

    def test_other_spacing_and_order_are_no_difference(self) -> None:
        assert plan_import(
            {"services/a": b'{ "B": [1],\n"A": "\\u00fc" }'}, {"services/a": '{"A":"ü","B":[1]}'.encode()}
        ).is_empty

    @pytest.mark.parametrize(
        ("one", "other"), [(b"1", b"1.0"), (b"1", b"true"), (b"[]", b"{}"), (b'"1"', b"1")]
    )
    def test_values_that_readers_tell_apart_differ(self, one: bytes, other: bytes) -> None:
        assert not plan_import({"services/a": one}, {"services/a": other}).is_empty

    @pytest.mark.parametrize("broken", [b"", b"{", b"\xff", b"[" * 100_000])
    def test_a_value_that_nobody_can_read_differs(self, broken: bytes) -> None:
        plan = plan_import({"services/a": broken}, {"services/a": b"{}"})
        assert list(plan.lines()) == ["~ services/a: what the store holds is not JSON"]
        plan = plan_import({"tags/t/haproxy_config": broken}, {"tags/t/haproxy_config": encode_text("x")})
        assert list(plan.lines()) == ["~ tags/t/haproxy_config: what the store holds cannot be read"]


class TestDifferences:
    def test_a_field_shows_both_values(self) -> None:
        assert lines(
            {"Container": {"Config": {"Image": "nginx:1"}}}, {"Container": {"Config": {"Image": "nginx:2"}}}
        ) == ["~ services/web: Container.Config.Image: nginx:1 → nginx:2"]

    def test_a_field_that_comes_or_goes_shows_what_it_was_without(self) -> None:
        assert lines({}, {"EndpointPort": 80}) == ["~ services/web: EndpointPort: (not set) → 80"]
        assert lines({"Checks": [{"Type": "docker"}]}, {"Checks": []}) == [
            '~ services/web: Checks[0]: {"Type": "docker"} → (not set)'
        ]

    def test_every_difference_has_a_line_of_its_own(self) -> None:
        before = {"Checks": [{"Url": "a", "Rise": 1}], "Attributes": {"x": "1"}}
        after = {"Checks": [{"Url": "b", "Rise": 2}], "Attributes": {"y": "1"}}
        assert lines(before, after) == [
            "~ services/web: Attributes.x: 1 → (not set)",
            "~ services/web: Attributes.y: (not set) → 1",
            "~ services/web: Checks[0].Rise: 1 → 2",
            "~ services/web: Checks[0].Url: a → b",
        ]

    def test_a_long_value_is_cut(self) -> None:
        (line,) = lines({"A": "x" * 1000}, {"A": "y" * 1000})
        assert len(line) < 400

    def test_a_line_break_in_a_value_does_not_break_the_line(self) -> None:
        (line,) = lines({"A": "x"}, {"A": "y\n+ services/evil\x1b[2J"})
        assert line == "~ services/web: A: x → y\\n+ services/evil\\x1b[2J"

    def test_a_template_shows_its_changed_lines(self) -> None:
        assert template_lines("a\nb\nc\n", "a\nB\nc\nd\n") == [
            "~ tags/lb/haproxy_config: line 2: - b",
            "~ tags/lb/haproxy_config: line 2: + B",
            "~ tags/lb/haproxy_config: line 4: + d",
        ]

    def test_a_rewritten_template_shows_a_bounded_number_of_lines(self) -> None:
        found = template_lines("", "\n".join(map(str, range(1000))))
        assert len(found) == 41
        assert found[-1].endswith("more lines")


SECRET = "topsecret"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"Env": ["A=1", f"P={SECRET}"]}, {"Env": ["A=1", "P=new"]}),
        ({"Env": [f"P={SECRET}"]}, {"Env": ["Q=1"]}),
        ({}, {"Env": [f"P={SECRET}"]}),
        ({}, {"Container": {"Config": {"Env": [f"P={SECRET}", "Q"]}}}),
        ({"Password": SECRET}, {"Password": "new"}),
        ({"Username": SECRET}, {}),
        ({"SourceControl": {"OAuthToken": SECRET}}, {"SourceControl": {"OAuthToken": "new"}}),
        ({"SourceControl": {"OAuthToken": SECRET}}, {}),
        ({"AMQPUrl": f"amqp://u:{SECRET}@h/"}, {"AMQPUrl": "amqp://h/"}),
        ({"Headers": {"Authorization": SECRET}}, {"Headers": {"Authorization": "new"}}),
        ({"Headers": {"Authorization": SECRET}}, {}),
        ({}, {"Checks": [{"Type": "http", "Headers": {"X": SECRET}, "Password": SECRET}]}),
        ({"Url": f"http://user:{SECRET}@h/"}, {"Url": "http://h/"}),
        ({"Labels": {"db_password": SECRET}}, {"Labels": {}}),
        ({"Config": {"splunk-token": SECRET}}, {"Config": {"splunk-token": "new"}}),
        ({"Secrets": [SECRET]}, {"Secrets": {"a": SECRET}}),
        ({"Secrets": {"a": SECRET}}, {"Secrets": {"a": "b"}}),
    ],
)
def test_a_secret_is_said_to_change_and_never_shown(before: Any, after: Any) -> None:
    found = [*lines(before, after), *lines(after, before)]
    assert found
    assert not any(SECRET in line for line in found)


def test_the_names_of_variables_are_shown() -> None:
    assert lines({"Env": ["A=1", "B=2", "C=3"]}, {"Env": ["A=1", "B=3", "D=4"]}) == [
        "~ services/web: Env: B changed (value hidden)",
        "~ services/web: Env: C removed",
        "~ services/web: Env: D added (value hidden)",
    ]


@pytest.mark.parametrize(
    "line",
    [
        f"    stats auth admin:{SECRET}",
        f"    user admin insecure-password {SECRET}",
        f"    user admin password {SECRET}",
        f'    http-request set-header Authorization "Basic {SECRET}"',
        f"    server a http://u:{SECRET}@h",
    ],
)
def test_a_password_in_a_template_is_not_shown(line: str) -> None:
    found = template_lines(f"a\n{line}\n", "a\n")
    assert len(found) == 1
    assert SECRET not in found[0]


@pytest.mark.parametrize("folder", ["certs", "haproxy_files"])
def test_contents_of_certificates_and_files_are_not_shown(folder: str) -> None:
    key = f"tags/lb/{folder}/a"
    (line,) = plan_import({key: encode_text(SECRET)}, {key: encode_text("new")}).lines()
    assert line.startswith(f"~ {key}: changed (")
    assert SECRET not in line


class TestTransaction:
    PLAN = plan_import({"services/a": b"{}", "services/b": b"1"}, {"services/b": b"2", "services/c": b"{}"})

    def test_the_first_import_holds_only_while_there_is_none(self) -> None:
        meta = next_meta(None, epoch="new", import_id="i", now="t", user="bob", source=Source())
        assert (meta.epoch, meta.generation, meta.import_id, meta.imported_by) == ("new", 1, "i", "bob")
        transaction = import_transaction(self.PLAN, keys=KEYS, read_meta=None, meta=meta)
        assert transaction.compares == (Absent(Range.single("/orbit/config/meta")),)

    def test_a_later_import_keeps_the_epoch_and_holds_only_if_nobody_was_faster(self) -> None:
        later = next_meta(
            META, epoch="new", import_id="i", now="t", user="bob", source=Source(), known_generation=90
        )
        assert later.generation == 91
        assert later.continues == META.continues
        meta = next_meta(META, epoch="new", import_id="i", now="t", user="bob", source=Source())
        assert (meta.epoch, meta.generation, meta.state) == ("e", 8, "complete")
        read = KeyValue(key=KEYS.meta, value=b"", mod_revision=42)
        transaction = import_transaction(self.PLAN, keys=KEYS, read_meta=read, meta=meta)
        assert transaction.compares == (Unchanged(KEYS.meta, 42),)

    def test_it_writes_what_differs_and_the_meta_and_nothing_else(self) -> None:
        transaction = import_transaction(self.PLAN, keys=KEYS, read_meta=None, meta=META)
        *changes, last = transaction.operations
        assert changes == [
            Delete(Range.single("/orbit/config/services/a")),
            Put("/orbit/config/services/b", b"2"),
            Put("/orbit/config/services/c", b"{}"),
        ]
        assert isinstance(last, Put)
        assert decode(last.value, ConfigMeta, key=last.key) == META

    def test_its_size_counts_operations_and_bytes_of_keys_and_values(self) -> None:
        transaction = import_transaction(self.PLAN, keys=KEYS, read_meta=None, meta=META)
        assert len(transaction.operations) == 4
        assert transaction.fits(Limits(operations=4, bytes=transaction.bytes))
        assert not transaction.fits(Limits(operations=3, bytes=transaction.bytes))
        assert not transaction.fits(Limits(operations=4, bytes=transaction.bytes - 1))
        assert transaction.bytes > len(json.dumps({}))
