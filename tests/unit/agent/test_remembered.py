from pathlib import Path

import pytest

from orbitcontrol.agent.remembered import Remembered
from orbitcontrol.errors import OrbitError, UsageError
from orbitcontrol.model.configuration import ProxyConfiguration
from orbitcontrol.model.service import Container, Service, TcpCheck
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.proxy import ProxyState, as_named
from orbitcontrol.statedir import StateDirectory


def remembered(directory: Path) -> Remembered[ProxyState]:
    return Remembered(StateDirectory(directory), "haproxy.json", ProxyState, ProxyState())


def test_a_value_comes_back_as_it_was_saved_and_its_file_is_private(tmp_path: Path) -> None:
    state = remembered(tmp_path)
    assert state.load() == ProxyState()
    service = Service(
        name="web",
        endpoint_port=80,
        checks=(TcpCheck(host_port="h:1"),),
        container=Container(config={"Image": "web:1", "Env": ["PASSWORD=hunter2"]}),
    )
    endpoint = Endpoint(id="i", machine="10.0.0.1", session="s", attributes={"w": "1"}, state="draining")
    value = ProxyState(
        good=ProxyConfiguration(tag="lb", template="é {{ x }}", certs={"a.pem": "k"}),
        services={"web": as_named(service)},
        endpoints={"web": {"10.0.0.1:80": endpoint}},
        applied="d",
    )
    state.save(value)
    assert remembered(tmp_path).load() == value
    file = tmp_path / "haproxy.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "hunter2" not in file.read_text()


@pytest.mark.parametrize("content", ["", "{damaged", '{"Good": 7}', "[]"])
def test_a_damaged_file_is_the_same_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "haproxy.json").write_text(content)
    assert remembered(tmp_path).load() == ProxyState()


def test_a_file_with_one_changed_byte_or_of_another_version_is_the_same_as_none(tmp_path: Path) -> None:
    state = remembered(tmp_path)
    state.save(ProxyState(applied="abc"))
    file = tmp_path / "haproxy.json"
    saved = file.read_bytes()
    for damaged in (saved.replace(b"abc", b"abd"), saved.replace(b"orbitcontrol-1", b"orbitcontrol-9")):
        file.write_bytes(damaged)
        assert state.load() == ProxyState()
    file.write_bytes(saved)
    assert state.load() == ProxyState(applied="abc")


def test_a_save_that_the_disk_refuses_names_the_file_and_leaves_the_old_value(tmp_path: Path) -> None:
    state = remembered(tmp_path)
    state.save(ProxyState(applied="old"))
    (tmp_path / ".haproxy.json.new").mkdir()
    with pytest.raises(OrbitError, match=r"haproxy\.json: cannot be written"):
        state.save(ProxyState(applied="new"))
    assert state.load() == ProxyState(applied="old")


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be used as --state-dir"):
        StateDirectory(tmp_path / "file" / "state")


def test_a_state_directory_lets_one_daemon_in_at_a_time(tmp_path: Path) -> None:
    with (
        StateDirectory(tmp_path).locked(),
        pytest.raises(OrbitError, match="another orbitctl daemon uses this state directory"),
        StateDirectory(tmp_path).locked(),
    ):
        pass
    with StateDirectory(tmp_path).locked():
        pass
