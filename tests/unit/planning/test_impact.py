"""Whom an import touches, estimated from the machines' records."""

from __future__ import annotations

from typing import Any

import pytest

from orbitcontrol.codec.entries import encode_document, encode_text
from orbitcontrol.planning.impact import impact_of
from orbitcontrol.planning.imports import plan_import

MACHINES = {"10.0.0.1": ("app",), "10.0.0.2": ("app", "canary"), "10.0.0.3": ("lb",), "10.0.0.4": ()}
WEB: dict[str, Any] = {
    "Name": "web",
    "ContainerPort": 80,
    "Instances": 2,
    "Container": {"Config": {"Image": "nginx:1"}},
}
BASE = {
    "services/web": encode_document(WEB),
    "services/plain": encode_document({"Name": "plain", "EndpointPort": 81}),
    "tags/app/services/web": b"{}",
    "tags/app/services/plain": b"{}",
    "tags/lb/haproxy_config": encode_text('{{ endpoints("routed") }} plainly'),
    "services/routed": encode_document({"Name": "routed", "Attributes": {"weight": "1"}}),
}


def touched(changes: dict[str, bytes | None]) -> dict[str, dict[str, int]]:
    wanted = {key: value for key, value in {**BASE, **changes}.items() if value is not None}
    impact = impact_of(plan_import(BASE, wanted), current=BASE, wanted=wanted, machines=MACHINES)
    return {machine.address: machine.containers for machine in impact.machines}


def web(**changes: Any) -> bytes:
    return encode_document({**WEB, **changes})


@pytest.mark.parametrize(
    ("why", "changes", "expected"),
    [
        ("nothing changes", {}, {}),
        (
            "another image replaces every instance of every machine that runs the service",
            {"services/web": web(Container={"Config": {"Image": "nginx:2"}})},
            {"10.0.0.1": {"web": 2}, "10.0.0.2": {"web": 2}},
        ),
        (
            "another port inside the container replaces it",
            {"services/web": web(ContainerPort=81)},
            {"10.0.0.1": {"web": 2}, "10.0.0.2": {"web": 2}},
        ),
        (
            "one instance more starts one container",
            {"services/web": web(Instances=3)},
            {"10.0.0.1": {"web": 1}, "10.0.0.2": {"web": 1}},
        ),
        (
            "other attributes touch the machines and no container",
            {"services/web": web(Attributes={"weight": "1"})},
            {"10.0.0.1": {}, "10.0.0.2": {}},
        ),
        (
            "an override touches the machines of its tag alone",
            {"tags/canary/services/web": encode_document({"Container": {"Config": {"Env": ["A=1"]}}})},
            {"10.0.0.2": {"web": 2}},
        ),
        (
            "a binding that goes removes the containers",
            {"tags/app/services/web": None},
            {"10.0.0.1": {"web": 2}, "10.0.0.2": {"web": 2}},
        ),
        (
            "a service without a container has none to touch",
            {"services/plain": encode_document({"Name": "plain", "EndpointPort": 82})},
            {"10.0.0.1": {}, "10.0.0.2": {}},
        ),
        (
            "a template touches its load balancers",
            {"tags/lb/haproxy_config": encode_text("b")},
            {"10.0.0.3": {}},
        ),
        (
            "a service that a template mentions touches its load balancers",
            {"services/routed": encode_document({"Name": "routed", "Attributes": {"weight": "2"}})},
            {"10.0.0.3": {}},
        ),
        (
            "a service that no tag binds touches nobody",
            {"services/new": encode_document({"Name": "new"})},
            {},
        ),
        (
            "zones concern every machine",
            {"globalproperties": b'{"AvailabilityZones":{}}'},
            {"10.0.0.1": {}, "10.0.0.2": {}, "10.0.0.3": {}, "10.0.0.4": {}},
        ),
    ],
)
def test_touched_machines_and_containers(
    why: str, changes: dict[str, bytes | None], expected: dict[str, dict[str, int]]
) -> None:
    assert touched(changes) == expected, why


def test_containers_are_summed_over_machines() -> None:
    wanted = {**BASE, "services/web": web(Instances=5)}
    impact = impact_of(plan_import(BASE, wanted), current=BASE, wanted=wanted, machines=MACHINES)
    assert impact.containers == 6
