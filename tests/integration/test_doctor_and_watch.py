"""``doctor`` and ``status --watch``, as a person uses them."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from support.docker import Engine
from support.etcd import free_ports
from support.machine import ORBITCTL, Cluster, eventually

pytestmark = pytest.mark.integration


def states(cluster: Cluster, *options: str, code: int) -> dict[str, tuple[str, str, str]]:
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
    of_haproxy = ("haproxy", "haproxy directory", "haproxy reload", "haproxy configuration")
    for subject in ("store", *of_haproxy, "address", "listen", "state"):
        assert found[subject][0] == "ok", found[subject]
    state, finding, advice = found["docker"]
    assert (state, "live-restore" in finding, "daemon.json" in advice) == ("warning", True, True)


def test_doctor_says_what_to_do_about_what_is_missing(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = states(
            cluster,
            *("--machine-address", "192.0.2.1", "--listen", f"127.0.0.1:{taken.getsockname()[1]}"),
            *("--docker-host", f"unix://{tmp_path}/none.sock", "--haproxy-binary", str(tmp_path / "none")),
            *("--haproxy-master-socket", str(tmp_path / "none.sock"), "--port-range", "40000-41000"),
            *("--state-dir", str(tmp_path / "file" / "state")),
            code=1,
        )
    expected = {
        "store": "warning",
        "docker": "warning",
        "haproxy": "warning",
        "haproxy reload": "failed",
        "address": "failed",
        "listen": "warning",
        "ports": "warning",
        "state": "failed",
    }
    assert {subject: found[subject][0] for subject in expected} == expected
    assert all(found[subject][2] for subject in expected)


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


def test_status_watch_shows_each_change_until_it_is_interrupted(cluster: Cluster, tmp_path: Path) -> None:
    cluster.orbitctl("import", str(cluster.tree({"services/web.json": {"Name": "web"}})))
    out = tmp_path / "out"
    with out.open("wb") as file:
        watching = subprocess.Popen(
            [*ORBITCTL, *cluster.options, "status", "--watch"], stdout=file, stderr=subprocess.PIPE
        )
    try:
        eventually(lambda: "generation 1" in out.read_text(), what="the first screen")
        cluster.orbitctl("import", str(cluster.tree({"services/db.json": {"Name": "db"}})))
        eventually(lambda: "generation 2" in out.read_text(), what="the import shown")
        assert out.read_text().count("\nSERVICE ") == 2
    finally:
        os.kill(watching.pid, signal.SIGINT)
        _, errors = watching.communicate(timeout=20)
    assert b"Traceback" not in errors
