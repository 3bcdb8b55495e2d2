from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from orbitcontrol.model.configuration import Desired, EffectiveService, MachineIdentity
from orbitcontrol.model.containers import ContainerState, ObservedContainer
from orbitcontrol.model.runs import RunId
from orbitcontrol.model.service import Container, Service
from orbitcontrol.planning.backoff import Backoff
from orbitcontrol.planning.container_specs import (
    InstanceKey,
    WantedContainer,
    container_spec,
    wanted_containers,
)
from orbitcontrol.planning.containers import (
    Action,
    ContainerPlan,
    Remove,
    Situation,
    Start,
    plan_containers,
)

ADDRESS = "10.0.0.5"


def service(
    name: str = "web",
    *,
    config: dict[str, Any] | None = None,
    host: dict[str, Any] | None = None,
    **fields: Any,
) -> EffectiveService:
    container = Container(config={"Image": "web:1"} | (config or {}), host_config=host or {})
    revision = container.config["Image"].rpartition(":")[2]
    return EffectiveService(service=Service(name=name, container=container, **fields), revision=revision)


def wanted(*services: EffectiveService, address: str = ADDRESS) -> tuple[WantedContainer, ...]:
    machine = MachineIdentity(address=address)
    by_name = {one.name: one for one in services}
    return wanted_containers(Desired(epoch="e", generation=1, machine=machine, services=by_name))


def spec_body(effective: EffectiveService, *, port: int = 20000) -> dict[str, Any]:
    [one] = wanted(effective)
    return container_spec(one, port=one.port if one.port is not None else port).body


def container(
    one: WantedContainer,
    *,
    id: str = "",
    state: ContainerState = "running",
    name: str = "",
    exit_code: int = 0,
) -> ObservedContainer:
    """What Docker shows of a container that was made for ``one``."""
    return ObservedContainer(
        id=id or f"{one.name}-{one.config_hash}",
        name=name or one.name,
        image=one.image,
        state=state,
        started_at="t0",
        exit_code=exit_code,
        labels=container_spec(one, port=one.port or 0).body["Labels"],
    )


def run_of(one: WantedContainer) -> RunId:
    return RunId(one.key.service, one.key.instance, container(one).id, "t0")


def situation(*observed: ObservedContainer, **fields: Any) -> Situation:
    return Situation(address=ADDRESS, observed=observed, **fields)


def summary(plan: ContainerPlan) -> list[tuple[str, str]]:
    return [(type(action).__name__, _subject(action)) for action in plan.actions]


def _subject(action: Action) -> str:
    match action:
        case Start(wanted=one):
            return one.name
        case Remove(unwanted=old):
            return old.container.name
        case _:
            raise AssertionError(f"no plan of these tests has {action}")


# What is wanted


def test_one_instance_has_the_services_name_and_several_are_numbered() -> None:
    assert [one.name for one in wanted(service())] == ["web"]
    assert [one.name for one in wanted(service(instances=2))] == ["web-1", "web-2"]


def test_a_service_without_a_container_wants_none() -> None:
    assert wanted(EffectiveService(service=Service(name="db", endpoint_port=5432))) == ()


@pytest.mark.parametrize(
    ("effective", "port"),
    [
        (service(endpoint_port=3500, container_port=80), 3500),
        (service(container_port=80), None),
        (service(endpoint_port=3500), 3500),
        (service(), 0),
        (service(host={"NetworkMode": "host"}, endpoint_port=3500), 3500),
        (service(host={"NetworkMode": "host"}, container_port=80), 80),
    ],
)
def test_the_port_is_fixed_or_to_be_picked_or_none(effective: EffectiveService, port: int | None) -> None:
    assert [one.port for one in wanted(effective)] == [port]


def test_the_authors_own_objects_are_passed_through() -> None:
    body = spec_body(
        service(
            config={"Image": "web:1", "Env": ["A=1"], "Labels": {"team": "blue"}},
            host={"Binds": ["/a:/b"], "LogConfig": {"Type": "journald"}},
        )
    )
    assert body["Image"] == "web:1"
    assert body["Env"] == ["A=1"]
    assert body["Labels"]["team"] == "blue"
    assert body["HostConfig"]["Binds"] == ["/a:/b"]
    assert body["HostConfig"]["LogConfig"] == {"Type": "journald"}


def test_orbit_adds_labels_log_limits_and_takes_restarts_to_itself() -> None:
    body = spec_body(service(host={"RestartPolicy": {"Name": "always"}}, endpoint_port=3500))
    config_hash = body["Labels"].pop("orbitcontrol.config-hash")
    assert len(config_hash) == 16
    assert body["Labels"] == {
        "orbitcontrol.service": "web",
        "orbitcontrol.instance": "1",
        "orbitcontrol.revision": "1",
        "orbitcontrol.revision-source": "image",
        "orbitcontrol.serial": "0",
        "orbitcontrol.machine": ADDRESS,
        "orbitcontrol.port": "3500",
    }
    assert body["HostConfig"] == {
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
    }


def test_the_container_port_is_published_on_the_machines_address_beside_the_authors_own() -> None:
    body = spec_body(
        service(
            config={"ExposedPorts": {"9000/tcp": {}}},
            host={"PortBindings": {"9000/tcp": [{"HostPort": "9000"}]}},
            container_port=80,
        ),
        port=20007,
    )
    assert body["ExposedPorts"] == {"9000/tcp": {}, "80/tcp": {}}
    assert body["HostConfig"]["PortBindings"] == {
        "9000/tcp": [{"HostPort": "9000"}],
        "80/tcp": [{"HostIp": ADDRESS, "HostPort": "20007"}],
    }


def test_a_port_that_the_author_publishes_already_is_not_published_twice() -> None:
    for bindings in (
        {"80/tcp": [{"HostPort": "3500"}]},
        {"80/tcp": [{"hostport": "3500", "HOSTIP": ADDRESS}]},
    ):
        body = spec_body(service(host={"PortBindings": bindings}, endpoint_port=3500, container_port=80))
        assert body["HostConfig"]["PortBindings"] == bindings


def test_on_the_hosts_network_nothing_is_published() -> None:
    body = spec_body(service(host={"NetworkMode": "host"}, endpoint_port=3500, container_port=80))
    assert "PortBindings" not in body["HostConfig"]


# Which changes replace a container


@pytest.mark.parametrize(
    "other",
    [
        service(config={"Image": "web:2"}),
        service(config={"Env": ["A=1"]}),
        service(config={"Labels": {"team": "blue"}}),
        service(host={"Memory": 1024}),
        service(endpoint_port=3501, container_port=80),
        service(container_port=81),
    ],
)
def test_any_change_of_the_effective_container_changes_the_hash(other: EffectiveService) -> None:
    assert wanted(other)[0].config_hash != wanted(service(container_port=80))[0].config_hash
    assert wanted(other)[0].config_hash != wanted(service())[0].config_hash


@pytest.mark.parametrize(
    "other",
    [
        structs.replace(service(), revision_source="service", serial=7),
        service(attributes={"weight": "5"}),
        service(instances=3),
        service(host={"RestartPolicy": {"Name": "always"}}),
    ],
)
def test_what_the_container_does_not_notice_leaves_the_hash_alone(other: EffectiveService) -> None:
    assert wanted(other)[0].config_hash == wanted(service())[0].config_hash


def test_no_tag_and_latest_are_the_same_image() -> None:
    assert (
        wanted(service(config={"Image": "web"}))[0].config_hash
        == wanted(service(config={"Image": "web:latest"}))[0].config_hash
    )


def test_the_order_in_which_fields_were_written_does_not_count() -> None:
    one = service(config={"User": "u", "Labels": {"a": "1", "b": "2"}}, host={"Memory": 1, "Init": True})
    other = service(config={"Labels": {"b": "2", "a": "1"}, "User": "u"}, host={"Init": True, "Memory": 1})
    assert wanted(one)[0].config_hash == wanted(other)[0].config_hash


def test_another_address_is_another_container() -> None:
    assert wanted(service())[0].config_hash != wanted(service(), address="10.0.0.6")[0].config_hash


# Plans

ONE, TWO = wanted(service(instances=2))
NEW_ONE, NEW_TWO = wanted(service(config={"Image": "web:2"}, instances=2))
ALONE = wanted(service())[0]
UP_SINCE = Backoff(attempts=2, ready_at=50.0, reason="exit code 1")


@pytest.mark.parametrize(
    ("sentence", "want", "given", "expected"),
    [
        (
            "nothing runs: everything is started",
            [ONE, TWO],
            situation(),
            [("Start", "web-1"), ("Start", "web-2")],
        ),
        ("what runs as wanted is left alone", [ONE, TWO], situation(container(ONE), container(TWO)), []),
        (
            "it is known by its labels, whatever its name",
            [ONE],
            situation(container(ONE, name="renamed")),
            [],
        ),
        (
            "a container that ended is replaced",
            [ONE],
            situation(container(ONE, state="exited")),
            [("Start", "web-1")],
        ),
        (
            "one that was never started too",
            [ONE],
            situation(container(ONE, state="created")),
            [("Start", "web-1")],
        ),
        ("one that Docker is removing is waited for", [ONE], situation(container(ONE, state="removing")), []),
        ("a paused container is somebody's wish", [ONE], situation(container(ONE, state="paused")), []),
        (
            "what ended and nothing wants is removed",
            [],
            situation(container(ONE, state="exited")),
            [("Remove", "web-1")],
        ),
        ("what runs is not: that takes a turn", [], situation(container(ONE)), []),
        ("nor is it replaced", [NEW_ONE], situation(container(ONE)), []),
        (
            "nothing is removed while its service is held",
            [],
            situation(container(ONE, state="exited"), held={"web"}),
            [],
        ),
        (
            "nor while the store is not trusted",
            [],
            situation(container(ONE, state="exited"), holding=True),
            [],
        ),
        (
            "nothing of a service that is in hand is started or removed",
            [ONE],
            situation(container(TWO, state="exited"), in_hand={"web"}),
            [],
        ),
        (
            "an ended one beside one that runs goes",
            [ONE],
            situation(container(ONE, id="a"), container(ONE, id="b", name="twin", state="exited")),
            [("Remove", "twin")],
        ),
        (
            "one that is kept for the way back stays",
            [ONE],
            situation(container(ONE, id="a"), container(ONE, id="b", name="web-1.kept-b", state="exited")),
            [],
        ),
        (
            "an instance with an action under way is left to it",
            [ONE],
            situation(busy={ONE.key}),
            [],
        ),
        (
            "what could not be removed is tried again later",
            [],
            situation(container(ONE, state="exited"), stops={ONE.key: UP_SINCE}, now=49.0),
            [],
        ),
        (
            "and then again",
            [],
            situation(container(ONE, state="exited"), stops={ONE.key: UP_SINCE}, now=50.0),
            [("Remove", "web-1")],
        ),
        (
            "more instances: the first stays under its name",
            [ONE, TWO],
            situation(container(ALONE)),
            [("Start", "web-2")],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_plan(
    sentence: str, want: list[WantedContainer], given: Situation, expected: list[tuple[str, str]]
) -> None:
    assert summary(plan_containers(want, given)) == expected, sentence


def test_a_container_that_keeps_ending_waits_for_its_backoff() -> None:
    starts = {(ONE.key, ONE.config_hash): UP_SINCE}
    exited = container(ONE, state="exited")
    waiting = plan_containers([ONE], situation(exited, starts=starts, now=49.0))
    assert waiting == ContainerPlan(waiting={ONE.key: UP_SINCE})
    assert summary(plan_containers([ONE], situation(exited, starts=starts, now=50.0))) == [("Start", "web-1")]


def test_another_configuration_does_not_wait_for_the_backoff_of_the_one_before() -> None:
    starts = {(ONE.key, ONE.config_hash): UP_SINCE}
    exited = container(ONE, state="exited")
    assert summary(plan_containers([NEW_ONE], situation(exited, starts=starts))) == [("Start", "web-1")]


def test_reasons_say_what_happened() -> None:
    exited = container(ONE, state="exited", exit_code=137)
    [start] = plan_containers([ONE], situation(exited)).actions
    assert start.reason == "its container ended with exit code 137"
    [remove] = plan_containers([], situation(exited)).actions
    assert remove.reason == "no container of web is wanted on this machine any more"


def test_a_strangers_container_blocks_the_name_and_is_not_touched() -> None:
    stranger = ObservedContainer(id="s", name="web-1", image="other", state="running")
    plan = plan_containers([ONE], situation(stranger))
    assert plan.actions == ()
    assert "not created by Orbit" in plan.blocked[InstanceKey("web", 1)]


def test_another_machines_container_on_the_same_engine_is_a_stranger_too() -> None:
    [theirs] = wanted(service(), address="10.0.0.6")
    plan = plan_containers([ALONE], situation(container(theirs)))
    assert plan.actions == ()
    assert "belongs to the machine 10.0.0.6" in plan.blocked[ALONE.key]
    assert plan_containers([], situation(container(theirs))) == ContainerPlan()


def test_a_kept_container_is_not_removed_by_the_start_of_another() -> None:
    kept = container(ONE, id="k", name="web-1.kept-k", state="exited")
    [start] = plan_containers([NEW_ONE], situation(kept)).actions
    assert isinstance(start, Start)
    assert start.ended == ()


def test_labels_that_orbit_cannot_have_written_make_a_stranger() -> None:
    odd = container(ONE)
    odd = structs.replace(odd, labels=odd.labels | {"orbitcontrol.instance": "first"})
    assert plan_containers([], situation(odd)) == ContainerPlan()
