"""Containers that Orbit did not create: what may be adopted, what is evicted, what is left alone."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from orbitcontrol.model.configuration import Desired, EffectiveService, MachineIdentity
from orbitcontrol.model.containers import ObservedContainer, PublishedPort
from orbitcontrol.model.runs import RunId
from orbitcontrol.model.service import Container, Service
from orbitcontrol.planning.backoff import Backoff
from orbitcontrol.planning.container_specs import (
    WantedContainer,
    container_spec,
    own_containers,
    wanted_containers,
)
from orbitcontrol.planning.containers import ContainerPlan, Situation, plan_containers
from orbitcontrol.planning.strangers import (
    Evict,
    StrangerKey,
    adoptions,
    contradictions,
    with_labels,
)

ADDRESS = "10.0.0.5"


def wanted(
    *, config: dict[str, Any] | None = None, host: dict[str, Any] | None = None, **fields: Any
) -> WantedContainer:
    container = Container(config={"Image": "web:1", **(config or {})}, host_config=host or {})
    effective = EffectiveService(service=Service(name="web", container=container, **fields), revision="1")
    machine = MachineIdentity(address=ADDRESS)
    desired = Desired(epoch="e", generation=1, machine=machine, services={"web": effective})
    return wanted_containers(desired)[0]


def stranger(
    *,
    name: str = "web",
    image: str = "web:1",
    config: dict[str, Any] | None = None,
    host: dict[str, Any] | None = None,
    **fields: Any,
) -> ObservedContainer:
    """A running container that somebody else started, as ``docker inspect`` shows it."""
    return ObservedContainer(
        id=fields.pop("id", "s"),
        name=name,
        image=image,
        state=fields.pop("state", "running"),
        started_at="t0",
        config={"Image": image, "Env": ["PATH=/bin"], "Cmd": ["serve"], "Entrypoint": None, **(config or {})},
        host_config={"NetworkMode": "default", "Binds": None, "Memory": 0, **(host or {})},
        **fields,
    )


def situation(*observed: ObservedContainer, **fields: Any) -> Situation:
    return Situation(address=ADDRESS, observed=observed, **fields)


@pytest.mark.parametrize(
    ("sentence", "one", "container"),
    [
        ("the same image", wanted(), stranger()),
        ("the same image, spelt out", wanted(), stranger(image="docker.io/library/web:1")),
        ("what the service leaves open", wanted(), stranger(config={"Env": ["A=1"]}, host={"Memory": 9})),
        ("its own policy", wanted(host={"RestartPolicy": {"Name": "no"}}), stranger()),
        ("a stated default", wanted(host={"Memory": 0, "Binds": [], "NetworkMode": "bridge"}), stranger()),
        ("stated variables", wanted(config={"Env": ["A=1"]}), stranger(config={"Env": ["B=2", "A=1"]})),
        ("the stated command", wanted(config={"Cmd": ["serve"]}), stranger()),
        ("the stated command as a text", wanted(config={"Cmd": "serve"}), stranger()),
        ("stated binds", wanted(host={"Binds": ["/a:/b"]}), stranger(host={"Binds": ["/c:/d", "/a:/b"]})),
        (
            "stated bindings",
            wanted(host={"PortBindings": {"9/tcp": [{"HostPort": "9"}]}}),
            stranger(host={"PortBindings": {"9/tcp": [{"HostIp": "", "HostPort": "9"}], "8/tcp": []}}),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_contradict_the_service_may_be_adopted(
    sentence: str, one: WantedContainer, container: ObservedContainer
) -> None:
    assert contradictions(one, container) == (), sentence
    assert [adoption.key for adoption in adoptions([one], [container], address=ADDRESS)] == [one.key]


@pytest.mark.parametrize(
    ("difference", "one", "container"),
    [
        ("Config.Image", wanted(), stranger(image="web:2")),
        ("Config.Image", wanted(), stranger(image="registry:5000/web:1")),
        ("Config.Env", wanted(config={"Env": ["A=1"]}), stranger(config={"Env": ["A=2"]})),
        ("Config.Cmd", wanted(config={"Cmd": ["serve", "-v"]}), stranger()),
        ("Config.Cmd", wanted(config={"Cmd": ["serve"]}), stranger(config={"Cmd": ["serve", "-v"]})),
        ("Config.Labels", wanted(config={"Labels": {"team": "blue"}}), stranger(config={"Labels": {}})),
        ("HostConfig.Binds", wanted(host={"Binds": ["/a:/b"]}), stranger(host={"Binds": ["/a:/b:ro"]})),
        ("HostConfig.Memory", wanted(host={"Memory": 1}), stranger()),
        ("HostConfig.Privileged", wanted(host={"Privileged": False}), stranger(host={"Privileged": True})),
        ("HostConfig.NetworkMode", wanted(host={"NetworkMode": "host"}), stranger()),
        (
            "HostConfig.NetworkMode",
            wanted(host={"NetworkMode": "default"}),
            stranger(host={"NetworkMode": "host"}),
        ),
        ("the published port 80/tcp", wanted(container_port=80), stranger()),
    ],
)
def test_a_field_that_contradicts_the_service_is_named(
    difference: str, one: WantedContainer, container: ObservedContainer
) -> None:
    assert contradictions(one, container) == (difference,)
    assert adoptions([one], [container], address=ADDRESS) == ()


@pytest.mark.parametrize(
    ("one", "published", "port"),
    [
        (wanted(container_port=80), PublishedPort(80, 32768, ADDRESS), 32768),
        (wanted(container_port=80), PublishedPort(80, 32768, "0.0.0.0"), 32768),
        (wanted(container_port=80), PublishedPort(80, 32768, "127.0.0.1"), None),
        (wanted(container_port=80), PublishedPort(81, 32768, ADDRESS), None),
        (wanted(container_port=80, endpoint_port=3500), PublishedPort(80, 3500, ADDRESS), 3500),
        (wanted(container_port=80, endpoint_port=3500), PublishedPort(80, 3501, ADDRESS), None),
        (wanted(endpoint_port=3500), PublishedPort(80, 9, ADDRESS), 3500),
        (wanted(), PublishedPort(80, 9, ADDRESS), 0),
    ],
)
def test_its_port_is_the_one_that_is_published_where_the_machine_is_reached(
    one: WantedContainer, published: PublishedPort, port: int | None
) -> None:
    container = stranger(published=(published,))
    labels = {found.container.id: found.labels for found in adoptions([one], [container], address=ADDRESS)}
    own = own_containers(with_labels([container], labels), address=ADDRESS)
    assert [found.port for found in own] == ([] if port is None else [port])


def test_an_adopted_container_needs_nothing_more_and_is_cleared_away_like_any_other() -> None:
    one = wanted()
    labels = {"s": adoptions([one], [stranger()], address=ADDRESS)[0].labels}
    [adopted] = with_labels([stranger()], labels)
    assert plan_containers([one], situation(adopted)) == ContainerPlan()
    [ended] = with_labels([structs.replace(stranger(), state="exited")], labels)
    [unwanted] = plan_containers([], situation(ended)).actions
    assert unwanted.key == one.key


def test_only_a_running_container_without_labels_of_orbit_is_adopted_and_only_where_none_is() -> None:
    one = wanted()
    spare = structs.replace(
        stranger(id="o", name="renamed"), labels=container_spec(one, port=0).body["Labels"]
    )
    for observed in (
        [stranger(state="exited")],
        [stranger(state="paused")],
        [stranger(name="other")],
        [stranger(labels={"orbitcontrol.machine": "10.0.0.6"})],
        [stranger(labels={"orbitcontrol.service": "web"})],
        [stranger(), spare],
    ):
        assert adoptions([one], observed, address=ADDRESS) == ()


def test_a_container_that_is_nearly_what_is_wanted_blocks_its_name_and_says_why() -> None:
    plan = plan_containers([wanted(container_port=80)], situation(stranger()))
    assert plan.actions == ()
    [reason] = plan.blocked.values()
    assert "cannot be adopted, because it differs in the published port 80/tcp" in reason


# Eviction

WEB = {"authoritative": {"web"}}


def evicted(given: Situation, *ones: WantedContainer) -> list[str]:
    return [one.stranger.name for one in plan_containers(ones, given).actions if isinstance(one, Evict)]


@pytest.mark.parametrize(
    ("sentence", "given", "expected"),
    [
        ("listed by its short name", situation(stranger(name="x"), **WEB), ["x"]),
        ("by its long one", situation(stranger(name="x"), authoritative={"docker.io/library/web"}), ["x"]),
        ("whatever its tag", situation(stranger(name="x", image="web@sha256:aa"), **WEB), ["x"]),
        ("also when it ended", situation(stranger(name="x", state="exited"), **WEB), ["x"]),
        ("not when it is going already", situation(stranger(name="x", state="removing"), **WEB), []),
        ("not of another name", situation(stranger(name="x", image="web2:1"), **WEB), []),
        ("not of another registry", situation(stranger(name="x", image="registry:5000/web:1"), **WEB), []),
        ("not without a list", situation(stranger(name="x")), []),
        ("not while a service is held", situation(stranger(name="x"), held={"api"}, **WEB), []),
        ("not from a store in doubt", situation(stranger(name="x"), holding=True, **WEB), []),
        ("not before it is known what serves", situation(stranger(name="x"), published=None, **WEB), []),
        (
            "not while an endpoint stands for it",
            situation(stranger(name="x"), published={RunId("web", 1, "s", "t0")}, **WEB),
            [],
        ),
        (
            "not while it is being removed",
            situation(stranger(name="x"), busy={StrangerKey("x", "s")}, **WEB),
            [],
        ),
        (
            "nor while the last failure is fresh",
            situation(stranger(name="x"), stops={StrangerKey("x", "s"): Backoff(ready_at=9.0)}, **WEB),
            [],
        ),
        (
            "another machine's",
            situation(stranger(name="x", labels={"orbitcontrol.machine": "10.0.0.6"}), **WEB),
            [],
        ),
        (
            "not what answers for a service that somebody else runs",
            situation(
                stranger(name="x", published=(PublishedPort(5432, 5432),)), foreign_ports={5432}, **WEB
            ),
            [],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_of_strangers_those_of_authoritative_images_are_evicted(
    sentence: str, given: Situation, expected: list[str]
) -> None:
    assert evicted(given) == expected, sentence


def test_an_instance_waits_until_the_evicted_container_of_its_name_is_gone() -> None:
    in_the_way = stranger(image="web:2")
    plan = plan_containers([wanted()], situation(in_the_way, **WEB))
    assert [type(action) for action in plan.actions] == [Evict]
    assert plan.blocked == {}
    pauses = {StrangerKey("web", "s"): Backoff(ready_at=9.0)}
    assert plan_containers([wanted()], situation(in_the_way, stops=pauses, **WEB)) == ContainerPlan()
