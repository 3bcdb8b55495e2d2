"""The rules between fields and between files, each with the file where it can be mended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orbitcontrol.tree.load import load
from support.trees import TAGS, sound_tree

SERVICE = "services/api.json"
CONTAINER = {"Config": {"Image": "a"}}
HOST_NETWORK = {"Config": {"Image": "a"}, "HostConfig": {"NetworkMode": "host"}}
CHECKS = [{"Type": "dummy"}]


def findings(root: Path, *, severity: str = "problem") -> list[str]:
    return [str(finding) for finding in load(root).findings if finding.severity == severity]


def with_service(root: Path, binding: dict[str, Any] | None = None, **fields: Any) -> Path:
    files: dict[str, Any] = {SERVICE: {"Name": "api", "Checks": CHECKS, **fields}}
    if binding is not None:
        files[f"{TAGS}/app/services/api.json"] = binding
    return sound_tree(root, **files)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"EndpointPort": 80, "Instances": 2, "Container": CONTAINER},
            "Instances: 2 instances cannot share EndpointPort 80; set ContainerPort",
        ),
        (
            {"EndpointPort": 80, "Container": CONTAINER, "Update": {"Order": "start-first"}},
            "Update.Order: start-first needs a port that Orbit picks, not EndpointPort 80",
        ),
        (
            {"Container": HOST_NETWORK, "Update": {"Order": "start-first"}},
            "Update.Order: start-first needs a port that Orbit picks, not host networking",
        ),
        ({"ContainerPort": 80}, "ContainerPort: there is no Container to publish a port of"),
        (
            {"ContainerPort": 80, "Container": HOST_NETWORK},
            "ContainerPort: host networking publishes no ports",
        ),
        ({"Container": {"Config": {}}}, "Container.Config.Image: is required"),
        ({"Container": {}}, "Container.Config.Image: is required"),
        ({"Checks": [{"Type": "docker"}]}, "Checks[0].Type: a docker check needs a Container"),
        (
            {"Checks": [{"Type": "exec", "Command": "x", "InContainer": True}]},
            "Checks[0].InContainer: there is no Container",
        ),
        ({"Checks": [{"Type": "exec", "Command": []}]}, "Checks[0].Command: is empty"),
        ({"Checks": [{"Type": "dummy", "Interval": 0}]}, "Checks[0].Interval: must be longer than 0"),
        ({"Checks": [{"Type": "dummy", "ConnectTimeout": "0s"}]}, "Checks[0].ConnectTimeout: must be longer"),
        ({"Checks": [{"Type": "http", "Url": "localhost:80/check"}]}, "Checks[0].Url: expected a URL like"),
        ({"Checks": [{"Type": "http", "Url": "http:///x"}]}, "Checks[0].Url: expected a URL like"),
        ({"Checks": [{"Type": "http", "Url": "http://h:99999/"}]}, "Checks[0].Url: expected a URL like"),
        ({"Checks": [{"Type": "http", "Url": "http://[::1/"}]}, "Checks[0].Url: expected a URL like"),
        (
            {"Checks": [{"Type": "http", "Url": "http://h/", "ExpectHttpStatus": "ok"}]},
            "Checks[0].ExpectHttpStatus: expected the beginning of a status",
        ),
        (
            {"Checks": [{"Type": "tcp", "HostPort": "localhost"}]},
            "Checks[0].HostPort: expected host and port",
        ),
        ({"Checks": [{"Type": "grpc", "HostPort": "h:70000"}]}, "Checks[0].HostPort: expected host and port"),
    ],
)
def test_fields_that_do_not_fit_together_are_problems(
    tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    (message,) = findings(with_service(tmp_path, **fields))
    assert message.startswith(f"{SERVICE}: {says}")


@pytest.mark.parametrize(
    "fields",
    [
        {"ContainerPort": 80, "Instances": 5, "Container": CONTAINER},
        {"EndpointPort": 80, "ContainerPort": 80, "Container": CONTAINER},
        {"EndpointPort": 80, "Container": HOST_NETWORK},
        {"ContainerPort": 80, "Container": CONTAINER, "Update": {"Order": "start-first"}},
        {"Instances": 3, "Container": CONTAINER},
        {
            "Checks": [
                {"Type": "http", "Url": "https://${ENDPOINT_HOST}:${ENDPOINT_PORT}/", "ExpectHttpStatus": 204}
            ]
        },
        {"Checks": [{"Type": "tcp", "HostPort": "${ENDPOINT_HOST}:${ENDPOINT_PORT}"}]},
        {"Checks": [{"Type": "tcp", "HostPort": "[::1]:80"}]},
        {
            "Container": CONTAINER,
            "Checks": [{"Type": "docker"}, {"Type": "exec", "Command": "x", "InContainer": True}],
        },
    ],
)
def test_fields_that_fit_together_are_no_findings(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert load(with_service(tmp_path, **fields)).findings == ()


class TestOverrides:
    BINDING = f"{TAGS}/app/services/api.json"

    def test_a_port_set_by_a_tag_can_break_a_rule_there(self, tmp_path: Path) -> None:
        root = with_service(
            tmp_path, {"EndpointPort": 81}, ContainerPort=80, Instances=2, Container=CONTAINER
        )
        (message,) = findings(root)
        assert message.startswith(f"{self.BINDING}: Instances: 2 instances cannot share EndpointPort 81")

    def test_host_networking_set_by_a_tag_can_break_a_rule_there(self, tmp_path: Path) -> None:
        root = with_service(
            tmp_path,
            {"Container": {"HostConfig": {"NetworkMode": "host"}}},
            ContainerPort=80,
            Container=CONTAINER,
        )
        (message,) = findings(root)
        assert message.startswith(f"{self.BINDING}: ContainerPort: host networking publishes no ports")

    def test_a_fault_of_the_service_is_not_repeated_for_its_tags(self, tmp_path: Path) -> None:
        root = with_service(tmp_path, {}, EndpointPort=80, Instances=2, Container=CONTAINER)
        (message,) = findings(root)
        assert message.startswith(SERVICE)

    def test_an_image_that_every_tag_sets_need_not_stand_in_the_service(self, tmp_path: Path) -> None:
        assert findings(with_service(tmp_path / "1", {"Container": CONTAINER}, Container={})) == []
        (message,) = findings(with_service(tmp_path / "2", {}, Container={}))
        assert message.startswith(f"{SERVICE}: Container.Config.Image: is required")

    def test_a_container_that_only_a_tag_adds_needs_an_image_there(self, tmp_path: Path) -> None:
        root = with_service(tmp_path, {"Container": {"Config": {"Env": ["A=1"]}}})
        (message,) = findings(root)
        assert message.startswith(f"{self.BINDING}: Container.Config.Image: is required")

    def test_checks_of_a_tag_follow_the_same_rules(self, tmp_path: Path) -> None:
        root = with_service(tmp_path, {"Checks": [{"Type": "tcp", "HostPort": "x"}]})
        (message,) = findings(root)
        assert message.startswith(f"{self.BINDING}: Checks[0].HostPort: expected host and port")

    def test_two_services_of_one_tag_with_one_port_are_a_problem(self, tmp_path: Path) -> None:
        root = with_service(tmp_path, {}, EndpointPort=8080, Container=CONTAINER)
        (message,) = findings(root)
        assert message.startswith(
            f'{TAGS}/app/services/web.json: EndpointPort: port 8080 is also that of "api"'
        )
        assert findings(with_service(tmp_path, {"EndpointPort": 81}, EndpointPort=8080)) == []

    def test_two_services_of_different_tags_may_have_one_port(self, tmp_path: Path) -> None:
        root = sound_tree(
            tmp_path,
            **{
                SERVICE: {"Name": "api", "EndpointPort": 8080, "Checks": CHECKS},
                f"{TAGS}/other/services/api.json": {},
            },
        )
        assert findings(root) == []


class TestWarnings:
    @staticmethod
    def of(root: Path) -> list[str]:
        return findings(root, severity="warning")

    def test_a_service_without_checks_says_what_it_counts_as(self, tmp_path: Path) -> None:
        (message,) = self.of(with_service(tmp_path / "1", Checks=[]))
        assert message == f"{SERVICE}: Checks: there are none, so this service counts as always up"
        (message,) = self.of(with_service(tmp_path / "2", Checks=[], Container=CONTAINER))
        assert message.endswith("counts as up while its container runs")

    def test_checks_that_every_tag_sets_need_not_stand_in_the_service(self, tmp_path: Path) -> None:
        assert self.of(with_service(tmp_path / "1", {"Checks": CHECKS}, Checks=[])) == []

    def test_a_tag_that_takes_the_checks_away_is_told(self, tmp_path: Path) -> None:
        messages = self.of(with_service(tmp_path, {"Checks": []}))
        assert (
            f"{TAGS}/app/services/api.json: Checks: there are none in this tag, so nothing is checked there"
            in messages
        )

    @pytest.mark.parametrize("policy", [{"Name": "always"}, {"name": "unless-stopped"}])
    def test_a_restart_policy_is_told_to_be_ignored(self, tmp_path: Path, policy: dict[str, str]) -> None:
        container = {**CONTAINER, "HostConfig": {"RestartPolicy": policy}}
        (message,) = self.of(with_service(tmp_path / "1", Container=container))
        assert message.startswith(f"{SERVICE}: Container.HostConfig.RestartPolicy: ")
        binding = {"Container": {"HostConfig": {"RestartPolicy": policy}}}
        (message,) = self.of(with_service(tmp_path / "2", binding, Container=CONTAINER))
        assert message.startswith(f"{TAGS}/app/services/api.json: Container.HostConfig.RestartPolicy: ")

    @pytest.mark.parametrize("policy", [{"Name": "no"}, {"Name": ""}, {}])
    def test_no_restart_policy_is_as_it_should_be(self, tmp_path: Path, policy: dict[str, str]) -> None:
        container = {**CONTAINER, "HostConfig": {"RestartPolicy": policy}}
        assert self.of(with_service(tmp_path, Container=container)) == []


def test_a_container_needs_a_name_that_docker_takes(tmp_path: Path) -> None:
    def found(folder: str, binding: Any = None, **fields: Any) -> list[str]:
        files = {"services/x.json": {"Name": "x", "Checks": CHECKS, **fields}}
        return findings(sound_tree(tmp_path / folder, **files, **{f"{TAGS}/app/services/x.json": binding}))

    [message] = found("1", Container=CONTAINER)
    assert message.startswith("services/x.json: Name: Docker refuses containers whose name is a single")
    [message] = found("2", {"Container": CONTAINER})
    assert message.startswith(f"{TAGS}/app/services/x.json: Name: ")
    assert found("3", Container=CONTAINER, Instances=2) == []
    assert found("4") == []


def test_a_zone_needs_networks(tmp_path: Path) -> None:
    zones = {"AvailabilityZones": {"eu-1a": ["10.0.0.0/24", "10.1.0.0/33", "fd00::/8", "x"]}}
    place, advice = (
        "globalproperties.json: AvailabilityZones.eu-1a",
        'is not a network; write it like "10.0.0.0/24"',
    )
    assert findings(sound_tree(tmp_path, **{"globalproperties.json": zones})) == [
        f'{place}[1]: "10.1.0.0/33" {advice}',
        f'{place}[3]: "x" {advice}',
    ]


def test_authoritative_names_are_images_without_tags(tmp_path: Path) -> None:
    file = f"{TAGS}/app/authoritative_names.json"
    names = ["nginx", "registry:5000/team/web", "nginx:1", "registry:5000/web:2", "a@sha256:00", ""]
    assert findings(sound_tree(tmp_path, **{file: names})) == [
        f'{file}: [2]: names an image without tag; write "nginx"',
        f'{file}: [3]: names an image without tag; write "registry:5000/web"',
        f'{file}: [4]: names an image without tag; write "a"',
        f"{file}: [5]: expected the name of an image",
    ]
