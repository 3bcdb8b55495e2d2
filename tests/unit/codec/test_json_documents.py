"""Documents: canonical spelling, and every fault of a file in one run."""

from __future__ import annotations

from typing import Any

import pytest

from orbitcontrol.codec.documents import read_document, read_value
from orbitcontrol.model.durations import Duration
from orbitcontrol.model.service import Binding, GlobalProperties, HttpCheck, Service

TYPES = "the types are http, tcp, exec, docker, grpc, dummy"
CHECK = {"Type": "http", "Url": "http://127.0.0.1/"}


def service(**fields: Any) -> dict[str, Any]:
    return {"Name": "web", **fields}


def complaints(value: Any, expected: type = Service, **options: Any) -> list[str]:
    document: Any = read_value(value, expected, file="f", **options)
    return [str(finding).removeprefix("f: ") for finding in document.findings if finding.is_problem]


def warnings(value: Any, expected: type = Service, **options: Any) -> list[str]:
    document: Any = read_value(value, expected, file="f", **options)
    return [str(finding).removeprefix("f: ") for finding in document.findings if not finding.is_problem]


def plain(value: Any, expected: type = Service) -> Any:
    document: Any = read_value(value, expected, file="f")
    assert not [finding for finding in document.findings if finding.is_problem]
    return document.plain


def test_keys_are_matched_without_case_and_written_in_pascal_case() -> None:
    written = {
        "name": "web",
        "ENDPOINTPORT": 80,
        "container": {"config": {"image": "nginx", "ENV": ["A=1"]}, "hostconfig": {"networkmode": "host"}},
        "checks": [{"type": "http", "url": "http://127.0.0.1/", "tlsskipverify": True}],
    }
    assert plain(written) == {
        "Name": "web",
        "EndpointPort": 80,
        "Container": {"Config": {"Image": "nginx", "Env": ["A=1"]}, "HostConfig": {"NetworkMode": "host"}},
        "Checks": [{"Type": "http", "Url": "http://127.0.0.1/", "TlsSkipVerify": True}],
    }


def test_only_what_the_author_wrote_is_kept() -> None:
    assert plain(service()) == {"Name": "web"}


def test_keys_of_free_maps_belong_to_their_author() -> None:
    written = service(
        Attributes={"weight": "1", "Weight": "2"},
        Container={"Config": {"Image": "a", "Labels": {"com.example": "x", "COM.example": "y"}}},
        Checks=[{**CHECK, "Headers": {"x-one": "1", "X-One": "2"}}],
    )
    assert plain(written) == written
    zones: dict[str, Any] = {"AvailabilityZones": {"eu-1a": [], "EU-1a": []}}
    assert plain(zones, GlobalProperties) == zones


def test_older_spellings_become_the_new_ones() -> None:
    written = service(Checks=[{**CHECK, "delay": 5000}], SourceControl={"OAuth": "t"})
    assert plain(written)["Checks"][0]["Interval"] == 5000
    assert plain(written)["SourceControl"] == {"OAuthToken": "t"}


def test_an_older_and_a_newer_spelling_side_by_side_are_a_problem() -> None:
    (message,) = complaints(service(Checks=[{**CHECK, "Delay": "1s", "Interval": "2s"}]))
    assert message == "Checks[0].Interval: the same field as Delay; keep one of them"


def test_two_spellings_of_one_key_are_a_problem() -> None:
    assert complaints({"Name": "web", "NAME": "web"}) == ["NAME: the same field as Name; keep one of them"]
    assert complaints(service(Container={"Config": {"Image": "a", "image": "b"}})) == [
        "Container.Config.image: the same field as Image; keep one of them"
    ]


def test_the_value_comes_with_the_document_when_nothing_is_wrong() -> None:
    document = read_document(
        b'{"Name": "web", "Checks": [{"type": "http", "url": "http://h/", "interval": "1m"}]}',
        Service,
        file="f",
    )
    assert document.value is not None
    (check,) = document.value.checks
    assert isinstance(check, HttpCheck)
    assert check.interval == Duration(60)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"EndpointPort": 99999}, "EndpointPort: must be from 0 to 65535, not 99999"),
        ({"EndpointPort": -1}, "EndpointPort: must be from 0 to 65535, not -1"),
        ({"EndpointPort": "80"}, "EndpointPort: expected a whole number; write it without quotes"),
        ({"EndpointPort": 80.5}, "EndpointPort: expected a whole number, not 80.5"),
        ({"EndpointPort": True}, "EndpointPort: expected a whole number, not true or false"),
        ({"EndpointPort": None}, "EndpointPort: expected a whole number, not null"),
        ({"ContainerPort": 0}, "ContainerPort: must be from 1 to 65535, not 0"),
        ({"Instances": 0}, "Instances: must be at least 1, not 0"),
        ({"Enpointport": 80}, "Enpointport: unknown field; did you mean EndpointPort?"),
        ({"Colour": "red"}, "Colour: unknown field; remove it"),
        ({"Checks": {}}, "Checks: expected a list in [ ], not an object"),
        ({"Checks": ["http"]}, "Checks[0]: expected an object in { }, not a text"),
        ({"Container": "nginx"}, "Container: expected an object in { }, not a text"),
        (
            {"Attributes": {"weight": 10}},
            "Attributes.weight: expected a text, not a number; put it in double quotes",
        ),
        ({"Attributes": {"a b": None}}, 'Attributes["a b"]: expected a text, not null'),
        ({"Update": {"Order": "first"}}, 'Update.Order: expected "stop-first" or "start-first", not "first"'),
        (
            {"Update": {"MaxParallel": "150%"}},
            'Update.MaxParallel: expected a whole number or a percentage like "25%"',
        ),
        (
            {"Update": {"MaxParallel": []}},
            "Update.MaxParallel: expected a whole number or a text, not a list",
        ),
        ({"Update": {"AutoRevert": "true"}}, "Update.AutoRevert: expected true, without quotes"),
        (
            {"Update": {"Stagger": "10 s"}},
            "Update.Stagger: '10 s' is not a duration; write it like '500ms', '10s' or '2m'",
        ),
        ({"Update": {"Stagger": -1}}, "Update.Stagger: a duration cannot be negative"),
        ({"Update": {"Stagger": True}}, "Update.Stagger: expected a duration like '500ms' or '10s'"),
        ({"Update": {"Stagger": "9999999h"}}, "Update.Stagger: is longer than a year"),
        ({"Update": {"Stagger": "9" * 400 + "s"}}, "Update.Stagger: is longer than a year"),
        (
            {"Update": {"Stagger": []}},
            'Update.Stagger: expected a duration like "500ms", "10s" or "2m", not a list',
        ),
    ],
)
def test_a_wrong_field_is_told_with_path_and_remedy(fields: dict[str, Any], message: str) -> None:
    assert complaints(service(**fields)) == [message]


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            {"Url": "http://h/"},
            f"Checks[0].Type: is required, but missing; {TYPES}",
        ),
        (
            {"Type": "https"},
            f'Checks[0].Type: unknown type "https"; did you mean "http"? {TYPES}',
        ),
        (
            {"Type": 3},
            f"Checks[0].Type: expected a text, not a number; {TYPES}",
        ),
        ({"Type": "http"}, "Checks[0].Url: is required, but missing"),
        ({**CHECK, "Urll": "x"}, "Checks[0].Urll: unknown field; did you mean Url?"),
        ({**CHECK, "Rise": 0}, "Checks[0].Rise: must be at least 1, not 0"),
        (
            {**CHECK, "Headers": {"a": 1}},
            "Checks[0].Headers.a: expected a text, not a number; put it in double quotes",
        ),
        (
            {"Type": "exec", "Command": 1},
            "Checks[0].Command: expected a text or a list of texts, not a number",
        ),
        (
            {"Type": "exec", "Command": ["a", 1]},
            "Checks[0].Command[1]: expected a text, not a number; put it in double quotes",
        ),
    ],
)
def test_a_wrong_check_is_told_with_path_and_remedy(check: dict[str, Any], message: str) -> None:
    assert complaints(service(Checks=[check])) == [message]


def test_every_fault_of_a_document_is_told_in_one_run() -> None:
    found = complaints(
        {
            "EndpointPort": 99999,
            "Checks": [{"Type": "http", "Urll": "x"}, {"Type": "nope"}],
            "Container": {"Config": {"Env": {}, "Memroy": 1}},
            "Update": {"Order": "x", "Canary": -1},
        }
    )
    paths = {message.split(": ")[0] for message in found}
    assert paths == {
        "Name",
        "EndpointPort",
        "Checks[0].Urll",
        "Checks[0].Url",
        "Checks[1].Type",
        "Container.Config.Env",
        "Update.Order",
        "Update.Canary",
    }


@pytest.mark.parametrize("name", ["", "-web", ".web", "a/b", "a b", "web\n", "ünï", "a" * 201])
def test_a_name_that_could_not_be_a_key_or_a_container_is_refused(name: str) -> None:
    (message,) = complaints({"Name": name})
    assert message.startswith("Name: ")


def test_unknown_fields_can_be_allowed_and_are_then_kept() -> None:
    written = service(Colour="red")
    assert complaints(written, allow_unknown=True) == []
    assert warnings(written, allow_unknown=True) == ["Colour: unknown field; remove it"]
    assert read_value(written, Service, file="f", allow_unknown=True).plain == written


def test_a_tag_cannot_override_what_belongs_to_the_service() -> None:
    assert complaints({"Instances": 3}, Binding) == [
        "Instances: a tag cannot override this field; set it in the service's own file"
    ]


def test_a_revision_in_the_tree_is_ignored_with_a_warning() -> None:
    for expected, document in ((Service, service(Revision="R1")), (Binding, {"revision": "R1"})):
        (message,) = warnings(document, expected)
        assert message.startswith(("Revision: ignored", "revision: ignored"))
        assert "set revision" in message


def test_the_address_of_a_broker_is_ignored_with_a_notice_that_hides_it() -> None:
    (message,) = warnings({"AMQPUrl": "amqp://guest:secret@h/"}, GlobalProperties)
    assert message == "AMQPUrl: ignored: events live in the store, no AMQP broker is used"


def test_a_plain_number_is_milliseconds_and_outside_of_checks_worth_a_warning() -> None:
    assert warnings(service(Checks=[{**CHECK, "Interval": 500}])) == []
    (message,) = warnings(service(Update={"DrainTimeout": 30}))
    assert message == 'Update.DrainTimeout: a plain number is milliseconds; write "30ms" or "30s" to be clear'


class TestDockerObjects:
    @staticmethod
    def of(**config: Any) -> dict[str, Any]:
        return service(Container={"Config": {"Image": "a", **config}})

    def test_a_name_near_a_known_one_is_a_problem(self) -> None:
        assert complaints(self.of(Entrypont=["x"])) == [
            "Container.Config.Entrypont: unknown field of the Docker Engine API; did you mean Entrypoint?"
        ]
        assert complaints(self.of(Entrypont=["x"]), allow_unknown=True) == []
        assert len(warnings(self.of(Entrypont=["x"]), allow_unknown=True)) == 1
        assert complaints(service(Container={"HostConfig": {"Memroy": 1}})) == [
            "Container.HostConfig.Memroy: unknown field of the Docker Engine API; did you mean Memory?"
        ]

    def test_another_unknown_name_is_passed_on_with_a_warning(self) -> None:
        written = service(Container={"HostConfig": {"Quux": {"a": 1}}})
        assert plain(written) == written
        (message,) = warnings(written)
        assert message.startswith("Container.HostConfig.Quux: not a field of the Docker Engine API")

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"Image": 3}, "Container.Config.Image: expected a text, not a number"),
            ({"Image": None}, "Container.Config.Image: is null; leave the field out instead"),
            (
                {"Env": {"A": "1"}},
                'Container.Config.Env: expected a list of texts like ["NAME=value"], not an object',
            ),
            ({"Env": ["A=1", 2]}, 'Container.Config.Env[1]: expected a text like "NAME=value", not a number'),
            ({"Env": ["=1"]}, 'Container.Config.Env[0]: has no name; write it like "NAME=value"'),
            ({"Labels": {"a": 1}}, "Container.Config.Labels.a: expected a text, not a number"),
            ({"Labels": ["a=1"]}, "Container.Config.Labels: expected an object of texts in { }, not a list"),
            ({"Cmd": [1]}, "Container.Config.Cmd[0]: expected a text, not a number"),
            ({"ExposedPorts": []}, "Container.Config.ExposedPorts: expected an object in { }, not a list"),
        ],
    )
    def test_what_orbit_reads_must_have_its_type(self, config: dict[str, Any], message: str) -> None:
        assert complaints(self.of(**config)) == [message]

    def test_a_variable_without_a_value_is_dockers_way_to_remove_one(self) -> None:
        written = self.of(Env=["HOME"])
        assert plain(written) == written
        assert warnings(written) == [
            "Container.Config.Env[0]: has no '='; Docker removes this variable instead of setting it"
        ]

    def test_a_message_never_shows_the_value_of_a_variable(self) -> None:
        found = complaints(self.of(Env=["=topsecret", ["topsecret"]])) + warnings(self.of(Env=["topsecret"]))
        assert len(found) == 3
        assert not any("topsecret" in message for message in found)
