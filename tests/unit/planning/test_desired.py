from collections.abc import Mapping

import msgspec
import pytest

from orbitcontrol.codec.configuration import parse_entries
from orbitcontrol.model.configuration import Configuration, Desired, MachineIdentity
from orbitcontrol.model.service import Binding, Container, DummyCheck, GlobalProperties, Service, TcpCheck
from orbitcontrol.model.state import ConfigMeta, Deployment, Revisions
from orbitcontrol.planning.desired import desired_of, zone_of
from orbitcontrol.planning.overrides import overridden

META = ConfigMeta(epoch="e", generation=7, imported_at="", imported_by="")
WEB = {"Name": "web", "EndpointPort": 80, "Container": {"Config": {"Image": "registry:5000/web:1"}}}


def desired(entries: Mapping[str, object], *tags: str, revisions: Revisions | None = None) -> Desired:
    raw = {
        entry: value if isinstance(value, bytes) else msgspec.json.encode(value)
        for entry, value in entries.items()
    }
    machine = MachineIdentity(address="10.0.0.5", tags=tags)
    return desired_of(machine, META, parse_entries(raw), revisions or Revisions())


def deployment(revision: str | None, serial: int = 3) -> Deployment:
    return Deployment(revision=revision, serial=serial, deployment_time="", user="")


def test_a_machine_runs_what_its_tags_bind() -> None:
    entries = {
        "services/web": WEB,
        "services/db": {"Name": "db"},
        "tags/a/services/web": {},
        "tags/b/services/db": {},
    }
    assert set(desired(entries, "a").services) == {"web"}
    assert set(desired(entries, "a", "b").services) == {"web", "db"}
    assert desired(entries).services == {}
    assert set(desired(entries).known_services) == {"web", "db"}


def test_overrides_replace_merge_and_add_as_documented() -> None:
    service = Service(
        name="web",
        endpoint_port=80,
        checks=(DummyCheck(),),
        attributes={"a": "1", "b": "1"},
        container=Container(
            config={"Image": "web:1", "Env": ["A=1", "B=1"], "Hostname": "x"},
            host_config={"Memory": 1, "Binds": ["/a"]},
        ),
    )
    binding = Binding(
        checks=(TcpCheck(host_port="h:1"),),
        attributes={"b": "2"},
        container=Container(config={"Env": ["B=2", "C=2"], "Hostname": "y"}, host_config={"Binds": ["/b"]}),
    )
    merged = overridden(service, [binding])
    assert merged.endpoint_port == 80
    assert merged.checks == (TcpCheck(host_port="h:1"),)
    assert merged.attributes == {"a": "1", "b": "2"}
    assert merged.container == Container(
        config={"Image": "web:1", "Env": ["A=1", "B=2", "C=2"], "Hostname": "y"},
        host_config={"Memory": 1, "Binds": ["/b"]},
    )
    assert overridden(service, [Binding(endpoint_port=81)]).endpoint_port == 81


def test_a_port_of_0_and_an_empty_list_of_checks_are_overrides_too() -> None:
    service = Service(name="web", endpoint_port=80, checks=(DummyCheck(),))
    merged = overridden(service, [Binding(endpoint_port=0, checks=())])
    assert (merged.endpoint_port, merged.checks) == (0, ())


def test_the_last_of_the_machines_tags_wins() -> None:
    entries = {
        "services/web": WEB,
        "tags/a/services/web": {"EndpointPort": 81},
        "tags/b/services/web": {"EndpointPort": 82},
    }
    assert desired(entries, "a", "b").services["web"].service.endpoint_port == 82
    assert desired(entries, "b", "a").services["web"].service.endpoint_port == 81


def test_overrides_of_several_tags_add_up_in_the_order_of_the_machines_tags() -> None:
    entries = {
        "services/web": {**WEB, "Attributes": {"weight": "1", "path": "/"}},
        "tags/a/services/web": {
            "EndpointPort": 81,
            "Checks": [{"Type": "dummy"}],
            "Attributes": {"weight": "2", "a": "1"},
            "Container": {
                "Config": {"Env": ["A=a", "B=a"], "Hostname": "a"},
                "HostConfig": {"Memory": 1, "Binds": ["/a:/a"]},
            },
        },
        "tags/b/services/web": {
            "Attributes": {"weight": "3", "b": "1"},
            "Container": {"Config": {"Env": ["B=b", "C=b"], "User": "b"}, "HostConfig": {"Binds": ["/b:/b"]}},
        },
    }
    merged = desired(entries, "a", "b").services["web"].service
    assert merged.endpoint_port == 81
    assert merged.checks == (DummyCheck(),)
    assert merged.attributes == {"weight": "3", "path": "/", "a": "1", "b": "1"}
    image = "registry:5000/web:1"
    assert merged.container == Container(
        config={"Image": image, "Env": ["A=a", "B=b", "C=b"], "Hostname": "a", "User": "b"},
        host_config={"Memory": 1, "Binds": ["/b:/b"]},
    )
    backwards = desired(entries, "b", "a").services["web"].service
    assert backwards.attributes["weight"] == "2"
    assert backwards.container is not None
    assert backwards.container.host_config["Binds"] == ["/a:/a"]
    assert set(backwards.container.config["Env"]) == {"A=a", "B=a", "C=b"}


def test_the_authoritative_names_of_all_tags_count() -> None:
    entries: dict[str, object] = {
        "tags/a/authoritative_names": ["web"],
        "tags/b/authoritative_names": ["web", "api"],
        "tags/c/authoritative_names": ["other"],
    }
    assert desired(entries, "a", "b").authoritative_names == {"web", "api"}


def test_certificates_and_files_are_those_of_the_templates_own_tag() -> None:
    text = {"Content": "x"}
    entries: dict[str, object] = {
        "tags/a/haproxy_config": text,
        "tags/a/certs/a.pem": text,
        "tags/a/haproxy_files/a": text,
        "tags/b/certs/b.pem": text,
        "tags/b/haproxy_files/b": text,
    }
    proxy = desired(entries, "a", "b").proxy
    assert proxy is not None
    assert (set(proxy.certs), set(proxy.haproxy_files)) == ({"a.pem"}, {"a"})


@pytest.mark.parametrize(
    ("revisions", "image", "source"),
    [
        (Revisions(), "registry:5000/web:1", "image"),
        (Revisions(service_wide={"web": deployment("R2")}), "registry:5000/web:R2", "service"),
        (Revisions(service_wide={"web": deployment(None)}), "registry:5000/web:1", "image"),
        (
            Revisions(service_wide={"web": deployment("R2")}, of_machine={"web": deployment("R3")}),
            "registry:5000/web:R3",
            "machine",
        ),
    ],
)
def test_the_image_runs_in_the_revision_that_is_set_nearest(
    revisions: Revisions, image: str, source: str
) -> None:
    web = desired({"services/web": WEB, "tags/a/services/web": {}}, "a", revisions=revisions).services["web"]
    assert web.service.image == image
    assert web.revision_source == source


@pytest.mark.parametrize(
    ("entries", "revisions", "words"),
    [
        ({"services/web": b"not json", "tags/a/services/web": {}}, Revisions(), "config/services/web"),
        ({"services/web": {"Name": "other"}, "tags/a/services/web": {}}, Revisions(), "its Name is 'other'"),
        ({"services/web": WEB, "tags/a/services/web": b"{"}, Revisions(), "config/tags/a/services/web"),
        ({"tags/a/services/web": {}}, Revisions(), "missing in the store"),
        ({"services/web": WEB, "tags/a/services/web": {}}, Revisions(broken={"web": "bad"}), "bad"),
    ],
)
def test_a_service_that_cannot_be_understood_is_held_and_named(
    entries: Mapping[str, object], revisions: Revisions, words: str
) -> None:
    rest: dict[str, object] = {"services/db": {"Name": "db"}, "tags/a/services/db": {}}
    result = desired({**entries, **rest}, "a", revisions=revisions)
    assert result.held == {"web"}
    assert set(result.services) == {"db"}
    [problem] = result.problems
    assert problem.subject == "service web"
    assert words in problem.reason


def test_two_templates_on_one_machine_hold_the_proxy_and_say_so() -> None:
    template = {"Content": "global"}
    entries: dict[str, object] = {"tags/a/haproxy_config": template, "tags/b/haproxy_config": template}
    both = desired(entries, "a", "b")
    assert both.proxy is None
    assert both.proxy_held
    assert "a and b" in both.problems[0].reason
    one = desired(entries, "b")
    assert one.proxy is not None
    assert one.proxy.tag == "b"
    assert not one.proxy_held


def test_an_unreadable_template_holds_the_proxy() -> None:
    result = desired({"tags/a/haproxy_config": b"x"}, "a")
    assert result.proxy_held
    assert result.proxy is None


def test_the_zone_is_that_of_the_network_that_holds_the_address() -> None:
    zones: dict[str, tuple[str, ...]] = {
        "eu-1a": ("10.0.0.0/24", "broken"),
        "eu-1b": ("10.0.1.7/24", "fd00::/8"),
    }
    configuration = Configuration(global_properties=GlobalProperties(availability_zones=zones))
    assert zone_of(configuration, "10.0.0.5") == "eu-1a"
    assert zone_of(configuration, "10.0.1.200") == "eu-1b"
    assert zone_of(configuration, "fd00::1") == "eu-1b"
    assert zone_of(configuration, "192.168.0.1") == ""
    assert zone_of(configuration, "host.example") == ""
