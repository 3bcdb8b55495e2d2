"""The command line as a person meets it: options, formats, errors, exit codes."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from orbitcontrol.model.state import (
    Alive,
    Endpoint,
    MachineRecord,
    ProxyVerdict,
    ProxyWorkers,
)
from support.etcd import EtcdServer, free_ports
from support.machine import ORBITCTL, Cluster

pytestmark = pytest.mark.integration


def orbitctl(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ORBITCTL_")}
    ran = subprocess.run(
        [*ORBITCTL, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**clean, **environment},
    )
    assert "Traceback" not in ran.stderr
    return ran


@pytest.fixture
def filled(cluster: Cluster) -> Cluster:
    """A store with a service, two endpoints of it, and a machine that is alive."""
    tree = cluster.tree(
        {
            "services/web.json": {"Name": "web", "EndpointPort": 80, "Checks": [{"Type": "dummy"}]},
            "services/worker.json": {
                "Name": "worker",
                "Container": {"Config": {"Image": "registry:5000/worker:1"}},
                "Checks": [{"Type": "dummy"}],
                "SourceControl": {
                    "Origin": "github.com/example/worker",
                    "OAuthToken": "hunter2",
                    "CIUrl": "http://ci.example/worker",
                },
            },
            "machineconfigurations/tags/app/services/web.json": {},
            "machineconfigurations/tags/app/services/worker.json": {},
        }
    )
    cluster.orbitctl("import", str(tree))
    for number, zone in ((5, "eu-1a"), (6, "eu-1b")):
        address = f"10.0.0.{number}"
        endpoint = Endpoint(id="i", machine=address, session="s", revision="", availability_zone=zone)
        cluster.write(f"services/web/endpoints/{address}:80", msgspec.json.encode(endpoint))
    cluster.write("machines/10.0.0.5", msgspec.json.encode(MachineRecord(tags=("app",), version="1")))
    cluster.write("alive/10.0.0.5", msgspec.json.encode(Alive(session="s", registered=True)))
    return cluster


def test_endpoints_are_listed_for_people_and_for_programs(filled: Cluster) -> None:
    table = filled.orbitctl("endpoints").out.splitlines()
    assert table[0].split() == ["SERVICE", "ENDPOINT", "STATE", "REVISION", "MACHINE"]
    assert table[1].split() == ["web", "10.0.0.5:80", "up", "-", "10.0.0.5"]
    assert "eu-1b" in filled.orbitctl("endpoints", "-o", "wide").out
    fields = filled.orbitctl("endpoints", "web", "--fields", "ip,port,endpoint,zone,machine,state").out
    assert fields.splitlines()[0].split("\t") == ["10.0.0.5", "80", "10.0.0.5:80", "eu-1a", "10.0.0.5", "up"]
    assert filled.orbitctl("endpoints", "-o", "json").json[1]["Zone"] == "eu-1b"
    assert "Endpoint: 10.0.0.6:80" in filled.orbitctl("endpoints", "-o", "yaml").out
    refused = filled.orbitctl("endpoints", "--fields", "adress", code=2)
    assert "'adress'" in refused.err
    assert "endpoint" in refused.err


def test_tags_machines_services_and_status_fit_together(filled: Cluster) -> None:
    [tag] = filled.orbitctl("tags", "-o", "json").json
    assert (tag["Tag"], tag["Services"], tag["Machines"]) == ("app", ["web", "worker"], ["10.0.0.5"])
    [machine] = filled.orbitctl("machines", "-o", "json").json
    assert (machine["Address"], machine["State"], machine["Endpoints"]) == ("10.0.0.5", "ready", 1)
    services = {service["Service"]: service for service in filled.orbitctl("service", "-o", "json").json}
    assert (services["web"]["Up"], services["web"]["Wanted"]) == (2, 1)
    assert services["worker"]["Revision"] == "1"
    status = filled.orbitctl("status", "-o", "json").json
    assert status["Generation"] == 1
    assert {service["Service"] for service in status["Services"]} == {"web", "worker"}
    one = filled.orbitctl("service", "worker").out
    assert "registry:5000/worker:1" in one
    assert "github.com/example/worker" in one
    assert "http://ci.example/worker" in one
    for output in ("wide", "json", "yaml"):
        assert "hunter2" not in filled.orbitctl("service", "worker", "-o", output).out


def test_a_machine_is_shown_with_its_haproxys_old_workers_while_it_is_alive(filled: Cluster) -> None:
    def shown(proxy_workers: ProxyWorkers | None) -> tuple[int, str, str]:
        record = MachineRecord(
            tags=("app",),
            version="1",
            proxy=ProxyVerdict(generation=1, accepted=True),
            proxy_workers=proxy_workers,
        )
        filled.write("machines/10.0.0.5", msgspec.json.encode(record))
        [machine] = filled.orbitctl("status", "-o", "json").json["Machines"]
        line = next(line for line in filled.orbitctl("status").out.splitlines() if "10.0.0.5" in line)
        return machine["LeavingWorkers"], machine["LeavingSince"], line

    workers = ProxyWorkers(leaving=2, since="2026-01-31T12:00:00Z")
    number, since, line = shown(workers)
    assert (number, since) == (2, "2026-01-31T12:00:00Z")
    assert re.search(r"accepted, 2 leaving for \d+h", line), line
    assert shown(ProxyWorkers(leaving=1, since="yesterday"))[2].count("accepted, 1 leaving") == 1
    number, since, line = shown(None)
    assert (number, since, "leaving" in line) == (0, "", False)
    filled.write("alive/10.0.0.5", None)
    number, since, line = shown(workers)
    assert (number, since, "leaving" in line) == (0, "", False)


def test_a_revision_is_set_for_all_or_for_one_machine_and_unset(filled: Cluster) -> None:
    def stored() -> dict[str, tuple[str | None, int]]:
        found = {}
        for item in filled.stored("deployments/"):
            value = json.loads(item.value)
            if "DeploymentTime" not in value:
                continue  # a rollout, or one that is over
            found[item.key.partition("/deployments/")[2]] = (value["Revision"], value["Serial"])
        return found

    filled.orbitctl("service", "worker", "set", "revision", "R2", "--detach", "--no-verify")
    assert stored() == {"worker/revision": ("R2", 1)}
    again = filled.orbitctl("service", "worker", "set", "revision", "R2", "--detach", "--no-verify")
    assert "already" in again.err
    assert stored() == {"worker/revision": ("R2", 1)}
    filled.orbitctl(
        "service", "worker", "set", "revision", "R3", "on", "machine", "10.0.0.5", "--detach", "--no-verify"
    )
    assert stored() == {"worker/revision": ("R2", 1), "worker/machines/10.0.0.5": ("R3", 2)}
    filled.orbitctl("service", "worker", "set", "revision", "R4", "--detach", "--no-verify")
    assert stored() == {"worker/revision": ("R4", 3)}
    filled.orbitctl("service", "worker", "unset", "revision", "--detach")
    assert stored() == {"worker/revision": (None, 4)}
    assert filled.service("worker")["Image"] == "registry:5000/worker:1"


def test_a_tag_that_the_configuration_does_not_have_is_a_problem_of_its_machine(filled: Cluster) -> None:
    assert "nothing is wrong" in filled.orbitctl("status").out
    filled.write("machines/10.0.0.5", msgspec.json.encode(MachineRecord(tags=("app", "ap"), version="1")))
    told = {
        "Subject": "10.0.0.5: tag ap",
        "Reason": "the configuration has no such tag; did you mean app?",
    }
    assert filled.orbitctl("status", "-o", "json").json["Problems"] == [told]
    [machine] = filled.orbitctl("machines", "-o", "json").json
    assert machine["Problems"] == [{**told, "Subject": "tag ap"}]


def test_an_import_never_touches_revisions(filled: Cluster) -> None:
    filled.orbitctl("service", "worker", "set", "revision", "R2", "--detach", "--no-verify")
    tree = filled.directory / "tree"
    (tree / "services/web.json").write_text(
        '{"Name": "web", "EndpointPort": 81, "Checks": [{"Type": "dummy"}]}'
    )
    filled.orbitctl("import", str(tree))
    assert filled.service("worker")["Revision"] == "R2"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["service", "webb"], 1, "did you mean web?"),
        (["service", "webb", "set", "revision", "R2"], 1, "did you mean web?"),
        (["service", "web", "set", "revision", "R2"], 1, "no container"),
        (["service", "worker", "set", "revision", "not a tag"], 2, "at most 128"),
        (["service", "worker", "set", "revision", "R2", "on", "machine", "10.0.0.55"], 1, "mean 10.0.0.5?"),
        (["endpoints", "webb"], 1, "did you mean web?"),
        (["service", "worker", "set", "revision", "R2", "10.0.0.5"], 2, "on machine ADDRESS"),
        (["service", "worker", "set", "revision"], 2, "Missing argument"),
        (["import"], 2, "Missing argument"),
        (["endpoints", "--nonsense"], 2, "No such option"),
        (["nonsense"], 2, "No such command"),
        (["stauts"], 2, "Did you mean 'status'?"),
        (["service", "set", "revision", "R2"], 2, "orbitctl service NAME set revision"),
        (["service", "web", "restart"], 2, "'restart' cannot be done with a service"),
        (["service", "worker", "pause"], 1, "there has been no rollout yet"),
        (["service", "worker", "rollback"], 1, "no other revision was ever completed"),
        (["service", "workr", "history"], 1, "did you mean worker?"),
        (["service", "worker", "relaunch", "--detach", "--timeout", "1s"], 2, "nothing is followed"),
        (["machine", "drain", "10.0.0.5"], 2, "orbitctl machine ADDRESS drain"),
        (["machine", "10.0.0.55", "forget"], 1, "did you mean 10.0.0.5?"),
    ],
)
def test_a_wrong_command_says_what_is_wrong_and_writes_nothing(
    filled: Cluster, arguments: list[str], code: int, words: str
) -> None:
    before = filled.stored("")
    ran = filled.orbitctl(*arguments, code=code)
    assert words in ran.err
    assert ran.out == ""
    assert filled.stored("") == before


def test_global_options_stand_before_or_after_the_command_and_the_inner_one_counts(tmp_path: Path) -> None:
    store = f"sqlite://{tmp_path}/store.db"
    (tmp_path / "store.db").touch()
    for arguments in (["--store", store, "machines"], ["machines", "--store", store]):
        ran = orbitctl(*arguments)
        assert ran.returncode == 0, ran.stderr
    ran = orbitctl("--store", "nonsense://", "machines", "--store", store)
    assert ran.returncode == 0, ran.stderr


def test_a_flag_wins_over_a_variable_that_wins_over_the_file(tmp_path: Path) -> None:
    def store_of(*arguments: str, **environment: str) -> str:
        return str(json.loads(orbitctl("status", "-o", "json", *arguments, **environment).stdout)["Store"])

    flag, variable, file = (f"sqlite://{tmp_path}/{name}.db" for name in ("flag", "variable", "file"))
    for name in ("flag", "variable", "file", "store"):
        (tmp_path / f"{name}.db").touch()
    settings = tmp_path / "orbitctl.toml"
    settings.write_text(f'store = "{file}"\n')
    config = ["--config", str(settings)]
    assert store_of(*config) == file
    assert store_of(ORBITCTL_CONFIG=str(settings)) == file
    assert store_of(*config, ORBITCTL_STORE=variable) == variable
    assert store_of("--store", flag, *config, ORBITCTL_STORE=variable) == flag
    assert store_of("--state-dir", str(tmp_path)) == f"sqlite://{tmp_path}/store.db"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("store = ", "cannot be read"),
        (None, "no such settings file"),
        ('stroe = "sqlite:///x.db"', "there is no setting stroe; did you mean store?"),
        ('machine-adress = "10.0.0.5"', "did you mean machine-address?"),
        ("[daemon]", "there is no setting daemon"),
    ],
)
def test_a_settings_file_that_cannot_be_used_is_named(
    tmp_path: Path, content: str | None, words: str
) -> None:
    settings = tmp_path / "orbitctl.toml"
    if content is not None:
        settings.write_text(content)
    ran = orbitctl("--config", str(settings), "status")
    assert ran.returncode == 2
    assert str(settings) in ran.stderr
    assert words in ran.stderr


@pytest.mark.parametrize("command", [["status"], ["service", "web"], ["endpoints"], ["export", "tree"]])
def test_a_store_that_is_not_there_is_refused_and_not_made(tmp_path: Path, command: list[str]) -> None:
    store = f"sqlite://{tmp_path}/nowhere/store.db"
    ran = orbitctl("--store", store, *command)
    assert ran.returncode == 1
    assert f"{store}: there is no such store" in ran.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["nonsense", "ftp://host", "etcd://", "sqlite://relative"])
def test_a_wrong_store_url_says_which_are_right(url: str) -> None:
    ran = orbitctl("--store", url, "status")
    assert ran.returncode == 2
    assert "sqlite:///" in ran.stderr


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_an_unreachable_store_fails_within_five_seconds_and_names_the_address(silent_port: int) -> None:
    for port in (free_ports(1)[0], silent_port):
        begun = time.monotonic()
        ran = orbitctl("--store", f"etcd://127.0.0.1:{port}", "status")
        assert time.monotonic() - begun < 6  # five, and a process that starts
        assert ran.returncode == 1
        assert f"127.0.0.1:{port}" in ran.stderr


def test_the_older_spelling_of_the_store_and_a_frozen_store(own_etcd: EtcdServer) -> None:
    older = ["--etcd-endpoint", own_etcd.client_url]
    assert orbitctl(*older, "machines").returncode == 0
    own_etcd.freeze()
    ran = orbitctl(*older, "machines")
    own_etcd.thaw()
    assert ran.returncode == 1
    assert own_etcd.endpoint in ran.stderr


def test_output_that_cannot_be_written_is_told_without_a_traceback() -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [*ORBITCTL, "schema"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ran.returncode == 1
    assert ran.stderr == "orbitctl: cannot go on: No space left on device\n"
    closed = f"{' '.join([*ORBITCTL, 'schema'])} >&-"
    silent = subprocess.run(["sh", "-c", closed], capture_output=True, text=True, check=False)
    assert (silent.returncode, silent.stderr) == (0, "")


def test_a_closed_pipe_and_an_interrupt_end_quietly(tmp_path: Path) -> None:
    store = f"sqlite://{tmp_path}/store.db"
    command = " ".join([*ORBITCTL, "--store", store, "schema", "service"])
    closed = f"{{ {command}; echo $? >&2; }} | true"
    ran = subprocess.run(["sh", "-c", closed], capture_output=True, text=True, check=False)
    assert ran.stderr == "141\n"
    listen = f"127.0.0.1:{free_ports(1)[0]}"
    daemon = ["daemon", "--state-dir", str(tmp_path), "--machine-address", "127.0.0.1", "--listen", listen]
    process = subprocess.Popen([*ORBITCTL, "--store", store, *daemon], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_a_daemon_whose_port_is_taken_says_so(tmp_path: Path, silent_port: int) -> None:
    listen = ["--machine-address", "127.0.0.1", "--listen", f"127.0.0.1:{silent_port}"]
    ran = orbitctl("daemon", "--state-dir", str(tmp_path), *listen)
    assert ran.returncode == 2
    assert f"127.0.0.1:{silent_port} cannot be used: another program listens there" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--machine-address is missing"),
        (["--machine-address", "10.0.0/5"], "is not an address"),
        (["--machine-address", "10.0.0.5", "--machine-tags", "a b"], "'a b' is not a tag's name"),
        (["--machine-address", "10.0.0.5", "--listen", "nonsense"], "HOST:PORT"),
        (["--machine-address", "203.0.113.9"], "this machine does not have the address"),
        (["--machine-address", "10.0.0.5", "--port-range", "5-1"], "range of ports"),
        (["--machine-address", "10.0.0.5", "--lease-ttl", "soon"], "--lease-ttl"),
        (["--machine-address", "10.0.0.5", "--lease-ttl", "1s"], "between 2s and 1h"),
    ],
)
def test_wrong_settings_of_a_daemon_are_named(tmp_path: Path, arguments: list[str], words: str) -> None:
    ran = orbitctl("daemon", "--state-dir", str(tmp_path), *arguments)
    assert ran.returncode == 2
    assert words in ran.stderr
