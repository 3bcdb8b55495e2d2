from __future__ import annotations

from typing import Any

import pytest

from orbitcontrol.docker.observation import image, inspected, is_inspected, listed
from orbitcontrol.model.containers import ObservedContainer


def entry(**fields: Any) -> dict[str, Any]:
    return {
        "Id": "c1",
        "Names": ["/web"],
        "Image": "web:1",
        "State": "running",
        "Status": "Up 2 hours",
    } | fields


def test_only_published_tcp_ports_count() -> None:
    ports = [
        {"IP": "10.0.0.5", "PrivatePort": 80, "PublicPort": 20000, "Type": "tcp"},
        {"PrivatePort": 81, "Type": "tcp"},
        {"IP": "10.0.0.5", "PrivatePort": 53, "PublicPort": 53, "Type": "udp"},
    ]
    assert listed(entry(Ports=ports)).ports == {80: 20000}


def test_an_ended_containers_exit_code_is_read_from_its_status() -> None:
    assert listed(entry(State="exited", Status="Exited (137) 3 seconds ago")).exit_code == 137


def test_the_own_name_is_told_from_aliases_of_links() -> None:
    assert listed(entry(Names=["/front/alias", "/web"])).name == "web"


def test_a_list_without_labels_or_ports_is_read() -> None:
    assert listed(entry(Labels=None, Ports=None)) == ObservedContainer(
        id="c1", name="web", image="web:1", state="running"
    )


def test_a_state_of_a_later_docker_counts_as_running() -> None:
    assert listed(entry(State="dreaming")).state == "running"


def test_a_look_at_the_container_itself_corrects_the_list() -> None:
    details = {"State": {"Status": "exited", "StartedAt": "2026-01-01T00:00:00Z", "ExitCode": 3}}
    seen = inspected(listed(entry()), details)
    assert (seen.state, seen.started_at, seen.exit_code) == ("exited", "2026-01-01T00:00:00Z", 3)


def test_the_image_of_a_container_whose_tag_has_moved_on_is_the_one_it_was_made_from() -> None:
    moved = listed(entry(Image="sha256:0123", State="created"))
    assert is_inspected(moved)
    details = {"State": {"Status": "created"}, "Config": {"Image": "web:1"}, "HostConfig": {"Memory": 1}}
    seen = inspected(moved, details)
    assert (seen.image, seen.config, seen.host_config) == ("web:1", {"Image": "web:1"}, {"Memory": 1})
    assert not is_inspected(listed(entry(State="exited")))


def test_an_image_has_its_references_and_times() -> None:
    seen = image(
        {"Id": "i", "RepoTags": ["<none>:<none>"], "RepoDigests": ["web@sha256:aa"]},
        {"Created": "1970-01-01T00:00:10.123456789Z", "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"}},
    )
    assert (seen.tags, seen.digests) == ((), ("web@sha256:aa",))
    assert seen.created == pytest.approx(10.123456)
    assert seen.tagged < 0
    assert image({"Id": "i", "RepoTags": None}, {}).tags == ()
