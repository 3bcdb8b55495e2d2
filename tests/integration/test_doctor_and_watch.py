"""``doctor`` and ``status --watch``, as a person uses them."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from support.docker import Engine
from support.etcd import EtcdServer, free_ports
from support.machine import ORBITCTL, Cluster, eventually

pytestmark = pytest.mark.integration


SUBJECTS = {
    *("store", "docker", "haproxy", "haproxy directory", "haproxy reload"),
    "haproxy configuration",
    *("address", "listen", "ports", "state", "clock"),
}


def states(cluster: Cluster, *options: str, code: int | None) -> dict[str, tuple[str, str, str]]:
    found = cluster.orbitctl("doctor", *options, "-o", "json", code=code).json
    return {one["Subject"]: (one["State"], one["Finding"], one["Advice"]) for one in found}


def test_doctor_finds_what_is_there(cluster: Cluster, engine: Engine, tmp_path: Path) -> None:
    cluster.orbitctl("import", str(cluster.tree({"services/web.json": {"Name": "web"}})))
    found = states(
        cluster,
        *("--machine-address", "127.0.0.1", "--listen", f"127.0.0.1:{free_ports(1)[0]}"),
        *("--docker-host", engine.host, "--haproxy-managed", "--haproxy-config-path", str(tmp_path)),
        *("--state-dir", str(tmp_path / "state")),
        code=0,
    )
    assert found.keys() == SUBJECTS
    for subject in SUBJECTS - {"docker", "ports", "clock"}:
        assert found[subject][0] == "ok", found[subject]
    state, finding, advice = found["docker"]
    assert (state, "live-restore" in finding, "daemon.json" in advice) == ("warning", True, True)


def test_doctor_says_what_to_do_about_what_is_missing(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    (tmp_path / "file").chmod(0o755)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = states(
            cluster,
            *("--machine-address", "192.0.2.1", "--listen", f"127.0.0.1:{taken.getsockname()[1]}"),
            *("--docker-host", f"unix://{tmp_path}/none.sock", "--haproxy-binary", str(tmp_path / "none")),
            *("--haproxy-master-socket", str(tmp_path / "none.sock"), "--port-range", "40000-41000"),
            *("--haproxy-config-path", str(tmp_path / "file"), "--state-dir", str(tmp_path / "file/state")),
            code=1,
        )
    expected = {
        "store": "warning",
        "docker": "warning",
        "haproxy": "warning",
        "haproxy directory": "failed",
        "haproxy reload": "failed",
        "address": "failed",
        "listen": "warning",
        "ports": "warning",
        "state": "failed",
    }
    assert {subject: found[subject][0] for subject in expected} == expected
    assert all(advice for state, _, advice in found.values() if state != "ok")


@pytest.mark.parametrize(
    ("options", "state", "words"),
    [
        (
            ["--haproxy-reload-command", "true", "--haproxy-master-socket", "{socket}"],
            "ok",
            "through {socket}",
        ),
        (["--haproxy-master-socket", "{socket}"], "ok", "through {socket}"),
        (["--haproxy-reload-command", "true"], "warning", "give --haproxy-master-socket as well"),
        (
            ["--haproxy-reload-command", "no-such x", "--haproxy-master-socket", "{socket}"],
            "failed",
            "'no-such': no such program",
        ),
        (
            ["--haproxy-reload-command", "true", "--haproxy-master-socket", "/no"],
            "failed",
            "/no is no socket",
        ),
        ([], "warning", "nobody said how"),
    ],
)
def test_doctor_looks_at_each_way_to_reload_an_haproxy_that_others_run(
    tmp_path: Path, options: list[str], state: str, words: str
) -> None:
    place = tmp_path / "master.sock"
    with socket.socket(socket.AF_UNIX) as master:
        master.bind(str(place))
        cluster = Cluster(tmp_path, f"sqlite://{tmp_path}/store.db")
        options = [option.format(socket=place) for option in options]
        found = states(cluster, "--state-dir", str(tmp_path), *options, code=None)["haproxy reload"]
    assert found[0] == state
    assert words.format(socket=place) in " ".join(found)


def test_doctor_warns_about_each_thing_that_the_running_configuration_lacks(
    cluster: Cluster, tmp_path: Path
) -> None:
    config = tmp_path / "haproxy.cfg"
    lines = {
        "stats socket": "global\n    stats socket /s level admin",
        "hard-stop-after": "global\n    hard-stop-after 30s",
        "timeout http-request": "defaults\n    timeout http-request 10s",
        "retries": "defaults\n    retries 3",
        "option redispatch": "defaults\n    option redispatch",
    }

    def found(text: str) -> list[tuple[str, str, str]]:
        config.write_text(text)
        options = ("--haproxy-managed", "--haproxy-config-path", str(tmp_path))
        said = cluster.orbitctl("doctor", *options, "-o", "json", code=0).json
        return [
            (one["State"], one["Finding"], one["Advice"])
            for one in said
            if one["Subject"] == "haproxy configuration"
        ]

    [(state, finding, advice)] = found("\n".join(lines.values()))
    assert (state, finding, advice) == ("ok", f"{config} has what reloads and drains need", "")
    warnings = found("# hard-stop-after 30s\n")
    assert len(warnings) == len(lines)
    for (state, finding, advice), lack in zip(warnings, lines, strict=True):
        assert state == "warning"
        assert f"{config}: no `{lack}" in finding
        assert "haproxy.tpl" in advice


def test_doctor_on_a_store_that_does_not_answer_fails_and_names_it(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    ran = subprocess.run(
        [*ORBITCTL, "doctor", "--store", f"etcd://127.0.0.1:{port}", "--state-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 1
    assert f"127.0.0.1:{port}" in ran.stdout
    assert "→ start the store" in ran.stdout


@contextmanager
def watching(cluster: Cluster, out: Path, *options: str) -> Iterator[Path]:
    """``status --watch`` at work: what it prints goes to ``out``, its errors to the file that is given."""
    errors = out.with_suffix(".errors")
    with out.open("wb") as file, errors.open("wb") as told:
        command = [*ORBITCTL, *cluster.options, "status", "--watch", *options]
        process = subprocess.Popen(command, stdout=file, stderr=told)
    try:
        yield errors
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    assert "Traceback" not in errors.read_text()


def test_status_watch_shows_each_change_until_it_is_interrupted(cluster: Cluster, tmp_path: Path) -> None:
    cluster.orbitctl("import", str(cluster.tree({"services/web.json": {"Name": "web"}})))
    out, programs = tmp_path / "out", tmp_path / "programs"
    with watching(cluster, out), watching(cluster, programs, "-o", "yaml"):
        eventually(lambda: "generation 1" in out.read_text(), what="the first screen")
        eventually(lambda: "Generation: 1" in programs.read_text(), what="the first record")
        cluster.orbitctl("import", str(cluster.tree({"services/db.json": {"Name": "db"}})))
        eventually(lambda: "generation 2" in out.read_text(), what="the import shown")
        eventually(lambda: "Generation: 2" in programs.read_text(), what="the import in a record")
        assert out.read_text().count("\nSERVICE ") == 2
    records = list(yaml.safe_load_all(programs.read_text()))
    assert [record["Generation"] for record in records] == [1, 2]


def test_status_watch_goes_on_when_the_store_is_away_for_a_while(
    own_etcd: EtcdServer, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path, f"etcd://{own_etcd.endpoint}")
    cluster.orbitctl("import", str(cluster.tree({"services/web.json": {"Name": "web"}})))
    out = tmp_path / "out"
    with watching(cluster, out) as errors:
        eventually(lambda: "generation 1" in out.read_text(), what="the first screen")
        own_etcd.kill()
        eventually(lambda: "above is what it said before" in errors.read_text(), what="the absence told")
        own_etcd.start()
        eventually(lambda: out.read_text().count("generation 1") == 2, what="the store shown again")
