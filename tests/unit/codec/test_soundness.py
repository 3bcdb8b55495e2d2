"""What is taken for sound at a glance is what the walk leaves as it is, without a word."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from orbitcontrol.codec.documents import walked
from orbitcontrol.codec.soundness import soundness_of
from orbitcontrol.model.service import Binding, GlobalProperties, Service

CHECKS = [
    {"Type": "http", "Url": "http://a/", "Interval": 500, "ExpectHttpStatus": 204, "Headers": {"a": "b"}},
    {"Type": "tcp", "HostPort": "a:1", "Rise": 2, "StartPeriod": "1m30s"},
    {"Type": "exec", "Command": ["true"], "InContainer": True},
    {"Type": "exec", "Command": "true"},
    {"Type": "grpc", "HostPort": "a:1", "Service": "a"},
    {"Type": "docker"},
    {"Type": "dummy", "DummyResult": False},
]
CONTAINER = {
    "Config": {"Image": "nginx:1", "Env": ["A=1"], "Cmd": ["a"], "Labels": {"a": "b"}, "ExposedPorts": {}},
    "HostConfig": {"Memory": 1, "Binds": ["/a:/b"], "NetworkMode": "bridge"},
}
SOUND: list[tuple[Any, Any]] = [
    (
        Service,
        {
            "Name": "web",
            "EndpointPort": 0,
            "ContainerPort": 8080,
            "Instances": 2,
            "Container": CONTAINER,
            "Checks": CHECKS,
            "Attributes": {"team": "a"},
            "SourceControl": {"Origin": None, "OAuthToken": "a"},
            "Update": {"MaxParallel": "25%", "Stagger": "5s", "Order": "start-first", "AutoRevert": True},
            "Relaunch": {"After": "1m", "Limit": 0},
        },
    ),
    (Binding, {"EndpointPort": 80, "Checks": CHECKS, "Attributes": {"a": "b"}, "Container": CONTAINER}),
    (GlobalProperties, {"AvailabilityZones": {"a": ["10.0.0.0/16"]}}),
    (tuple[str, ...], ["nginx"]),
]
OTHERS: list[Any] = [
    None, True, -1, 0, 70_000, 2**62, 0.5, "", "a\n", "a b", "-", "10s", "9999h", "25%", "0%", "=1", "x=1",
    "true", {}, {"a": 1}, {"A": "b"}, [], [1], ["=1"], ["A"], [None], [{"Type": "ftp"}], [{"type": "tcp"}],
]  # fmt: skip
FIELDS = ["Revision", "AMQPUrl", "Delay", "OAuth", "Memroy", "Other", "Rise", "Name"]


def altered(value: Any) -> Iterator[Any]:
    """The value with one place of it changed: replaced, left out, spelt otherwise, or added to."""
    yield from deepcopy(OTHERS)
    if isinstance(value, list):
        for index, item in enumerate(value):
            for other in altered(item):
                yield [*value[:index], other, *value[index + 1 :]]
    if isinstance(value, dict):
        for field in FIELDS:
            yield from ({**value, field: other} for other in ("", "a", 1))
        for key, item in value.items():
            rest = {name: content for name, content in value.items() if name != key}
            yield rest
            yield {**rest, key.lower(): item}
            yield from ({**value, key: other} for other in altered(item))


@pytest.mark.parametrize(("expected", "value"), SOUND)
def test_what_people_should_write_is_sound_at_a_glance(expected: Any, value: Any) -> None:
    assert soundness_of(expected)(value)


@pytest.mark.parametrize(("expected", "value"), SOUND)
def test_nothing_is_sound_at_a_glance_that_the_walk_has_to_say_something_of(
    expected: Any, value: Any
) -> None:
    for other in altered(value):
        if soundness_of(expected)(other):
            document: Any = walked(other, expected, file="f")
            assert (document.findings, document.plain) == ((), other)
