"""The commands that the README begins with, run as a stranger would, on a machine of their own.

A network, process and mount namespace stands for the fresh machine: no port is taken in it, and no
Docker engine is there until somebody starts one. What is left in it at the end was left behind.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK = Path("/tmp/orbit-test-dockerd.lock")

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

OWN_ENGINE = """
dockerd --host "$DOCKER_HOST" --pidfile "$SCRATCH/dockerd.pid" \
    --data-root "$SCRATCH/docker" --exec-root "$SCRATCH/exec" >"$SCRATCH/dockerd.log" 2>&1 &
until docker version >/dev/null 2>&1; do sleep 0.1; done
"""

UNTIL_IT_ANSWERS = """
until curl --silent --fail http://127.0.0.1:8080/ >/dev/null; do sleep 0.1; done
until curl --silent --fail http://127.0.0.1:8080/clock >/dev/null; do sleep 0.1; done
"""


def run_on_a_fresh_machine(
    script: str, scratch: Path, *, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Runs a bash script where ``$SCRATCH`` is its directory and ``$DOCKER_HOST`` a socket in it."""
    LOCK.touch()
    (scratch / "lock").touch()
    alone = f'mount --bind "$SCRATCH/lock" {LOCK}; ip link set lo up\n'
    return subprocess.run(
        [
            *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("bash", "-euo", "pipefail", "-c", alone + script),
        ],
        cwd=ROOT,
        env=os.environ | {"SCRATCH": str(scratch), "DOCKER_HOST": f"unix://{scratch}/docker.sock"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_the_demo_works_and_leaves_nothing_behind(tmp_path: Path) -> None:
    script = """
    make demo ONCE=1
    echo "LEFT: $(ps -e --no-headers -o comm | grep -cvE '^(bash|ps|grep)$' || true) processes," \
        "$(ip -oneline link | grep -cv ' lo: ' || true) interfaces"
    """
    demo = run_on_a_fresh_machine(script, tmp_path)
    assert demo.returncode == 0, demo.stdout
    assert "LEFT: 0 processes, 0 interfaces" in demo.stdout, demo.stdout
    directory = re.search(r"/tmp/orbit-demo-\w+", demo.stdout)
    assert directory, demo.stdout
    assert not Path(directory[0]).exists()


def test_the_tour_of_the_readme_can_be_typed_as_it_stands(tmp_path: Path) -> None:
    tour = (ROOT / "README.md").read_text().partition("## Five minutes by hand")[2].partition("\n## ")[0]
    start, look, change, end = re.findall(r"```sh\n(.*?)```", tour, re.DOTALL)
    script = OWN_ENGINE + start + UNTIL_IT_ANSWERS + look + change + end
    typed = run_on_a_fresh_machine(script.replace("/tmp/orbit-tour", f"{tmp_path}/t"), tmp_path)
    assert typed.returncode == 0, typed.stdout
    assert "web: revision R1" in typed.stdout
    assert "clock: " in typed.stdout
    assert "web: revision R2, container" in typed.stdout
