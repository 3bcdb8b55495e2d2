"""What people do with rollouts and machines, and what they see of them; the test is the daemons' hand."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import structs

from orbitcontrol.codec.values import decode, encode
from orbitcontrol.model.rollouts import Ack, LoadBalancer, Outcome, Progress, Rollout, Step
from orbitcontrol.model.state import Alive, Endpoint, InstanceReport, MachineRecord
from orbitcontrol.planning.rollout_records import past_of
from support.machine import ORBITCTL, Cluster, Ran, eventually

pytestmark = pytest.mark.integration

A, B, BALANCER = "10.0.0.5", "10.0.0.6", "10.0.0.9"
WEB = {"Name": "web", "EndpointPort": 80, "Container": {"Config": {"Image": "web:1"}}}


class Fleet:
    """Two machines that run web, a load balancer, and a person at the command line."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.running: list[subprocess.Popen[str]] = []
        self.bring(**WEB)
        for address in (A, B):
            self.tells(address)
            self.lives(address)

    def tree(self, **service: Any) -> str:
        files = {"services/web.json": service, "machineconfigurations/tags/app/services/web.json": {}}
        return str(self.cluster.tree(files))

    def bring(self, **service: Any) -> None:
        self.cluster.orbitctl("import", self.tree(**service))

    def lives(self, address: str) -> None:
        self.cluster.write(f"alive/{address}", encode(Alive(session="s", registered=True)))

    def tells(self, address: str, *reports: InstanceReport, generation: int = 1) -> None:
        """The machine writes its record."""
        record = MachineRecord(tags=("app",), epoch=self.epoch, generation=generation, instances=reports)
        self.cluster.write(f"machines/{address}", encode(record))

    @property
    def epoch(self) -> str:
        [meta] = self.cluster.stored("config/meta")
        found: str = msgspec.json.decode(meta.value)["Epoch"]
        return found

    def service(self, *words: str, code: int | None = 0) -> Ran:
        return self.cluster.orbitctl("service", "web", *words, code=code)

    def starts(self, *words: str) -> subprocess.Popen[str]:
        """A command that goes on; what it says is to be read from its standard error."""
        command = [*ORBITCTL, *self.cluster.options, *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.running.append(process)
        return process

    def rollout(self) -> Rollout | None:
        found = self.cluster.stored("deployments/web/rollout")
        return decode(found[0].value, Rollout, key="rollout") if found else None

    def steps(self, address: str, step: Step, reason: str = "") -> None:
        """A machine tells how far it is in the present rollout."""
        present = self.rollout()
        assert present is not None
        value = encode(Progress(rollout=present.id, step=step, reason=reason))
        self.cluster.write(f"services/web/progress/{address}", value)

    def becomes(self, **changes: Any) -> Rollout:
        """A daemon changes the rollout; one that is over gets its entry in the history."""
        present = self.rollout()
        assert present is not None
        after = structs.replace(present, **changes)
        puts = {f"{self.cluster.base}/deployments/web/rollout": encode(after)}
        if after.state in ("complete", "failed"):
            outcome: Outcome = "complete" if after.state == "complete" else "failed"
            past = past_of(after, outcome=outcome, ended=after.started)
            puts[f"{self.cluster.base}/deployments/web/history/{after.id}"] = encode(past)
        self.cluster.replace(puts, [])
        return after


@pytest.fixture
def fleet(cluster: Cluster) -> Iterator[Fleet]:
    fleet = Fleet(cluster)
    yield fleet
    for process in fleet.running:
        process.kill()
        process.communicate()


def heard(process: subprocess.Popen[str], text: str) -> str:
    """The next line that has the text; all before it are passed over."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line.rstrip("\n")
    pytest.fail(f"never said: {text}; it ended with {process.wait()}")


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """How it ended, and the rest of what it said."""
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    return process.returncode, said


def test_a_rollout_is_followed_machine_by_machine_and_names_whom_it_waits_for(fleet: Fleet) -> None:
    following = fleet.starts("service", "web", "set", "revision", "R2", "--no-verify")
    assert heard(following, "set") == "service web: revision R2 set"
    fleet.steps(B, "waiting")
    fleet.steps(A, "draining")
    heard(following, f"  {A}  draining")
    endpoint = Endpoint(id="i", machine=A, session="s", state="draining", ack=True)
    fleet.cluster.write(f"services/web/loadbalancers/{BALANCER}", encode(LoadBalancer()))
    fleet.cluster.write(f"services/web/endpoints/{A}:80", encode(endpoint))
    silent = f"load balancer {BALANCER} has not confirmed that {A}:80 drains; its daemon has no lease"
    heard(following, f"  waits: {silent}")

    shown = fleet.service().out
    assert "running, revision (tree) → R2 by " in shown
    assert silent in shown
    status = fleet.cluster.orbitctl("status").out
    assert "ROLLOUT OF" in status
    assert silent in status

    fleet.cluster.write(f"services/web/acks/i/{BALANCER}", encode(Ack(step="drained")))
    fleet.steps(A, "verifying", "1 of 2 checks pass")
    heard(following, f"  {A}  verifying: 1 of 2 checks pass")
    fleet.steps(A, "done")
    fleet.steps(B, "done")
    fleet.becomes(state="complete")
    code, said = ended(following)
    assert (code, said.splitlines()[-1]) == (0, "service web: revision R2 is done")
    assert "ROLLOUT OF" not in fleet.cluster.orbitctl("status").out

    again = fleet.service("set", "revision", "R2", "--no-verify")
    assert again.err == "service web: revision R2 was set already\n"


@pytest.mark.parametrize("cluster", ["etcd"], indirect=True)
def test_a_rollout_that_fails_is_followed_on_its_way_back(fleet: Fleet) -> None:
    fleet.service("set", "revision", "R1", "--no-verify", "--detach")
    first = fleet.becomes(state="complete")
    following = fleet.starts("service", "web", "set", "revision", "R2", "--no-verify")
    heard(following, "set")
    fleet.steps(A, "failed", "exit code 1")
    failed = fleet.becomes(state="failed", reason="10.0.0.5: exit code 1")
    heard(following, "failed: 10.0.0.5: exit code 1; revision R1 comes back")
    assert "rollout" in fleet.cluster.orbitctl("status").out.partition("PROBLEM")[2]
    fleet.becomes(id="back", revert_of=failed.id, target=first.target, state="running", reason="")
    heard(following, "going back to revision R1")
    fleet.steps(A, "done")
    fleet.becomes(state="complete")
    code, said = ended(following)
    assert (code, said.splitlines()[-1].split(";")[1]) == (3, " revision R1 is back everywhere")

    rows = fleet.service("history", "-o", "json").json
    assert [(row["From"], row["To"], row["Outcome"]) for row in rows] == [
        ("R1", "R1", "complete"),
        ("R1", "R2", "failed"),
        ("", "R1", "complete"),
    ]
    assert (rows[0]["RevertOf"], rows[1]["Reason"]) == (failed.id, "10.0.0.5: exit code 1")
    table = fleet.service("history").out.splitlines()
    assert table[0].split() == ["ID", "STARTED", "TOOK", "WHO", "CAUSE", "WHAT", "OUTCOME", "REASON"]
    assert "R1 → R2" in table[2]


@pytest.mark.parametrize("cluster", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({"state": "failed", "previous": None, "reason": "no"}, 1, "revision R2 failed: no; "),
        (
            {"state": "paused", "reason": "paused by bob"},
            4,
            "paused (paused by bob): `orbitctl service web resume` goes on",
        ),
        ({"id": "other", "user": "bob"}, 1, "superseded by rollout other: revision R2, begun by bob"),
    ],
)
def test_how_a_rollout_ends_is_the_exit_code_of_who_follows_it(
    fleet: Fleet, changes: dict[str, Any], code: int, told: str
) -> None:
    following = fleet.starts("service", "web", "set", "revision", "R2", "--no-verify")
    heard(following, "set")
    fleet.becomes(**changes)
    ended_with, said = ended(following)
    assert (ended_with, told in said) == (code, True), said


@pytest.mark.parametrize("cluster", ["etcd"], indirect=True)
def test_a_canary_stops_until_it_is_promoted(fleet: Fleet) -> None:
    fleet.bring(**WEB, Update={"Canary": 1})
    following = fleet.starts("service", "web", "set", "revision", "R2", "--no-verify")
    heard(following, "set")
    fleet.steps(A, "done")
    fleet.becomes(state="paused", reason="10.0.0.5 is done")
    code, said = ended(following)
    assert code == 4
    assert "`orbitctl service web promote` goes on, `orbitctl service web rollback` goes back" in said
    assert "paused" in fleet.service().out

    following = fleet.starts("service", "web", "promote")
    heard(following, "promoted: goes on to all machines")
    fleet.becomes(state="complete")
    assert ended(following)[0] == 0
    refused = fleet.service("pause", code=1)
    assert "there is nothing to pause" in refused.err

    following = fleet.starts("service", "web", "relaunch")
    heard(following, "relaunch begun")
    fleet.service("pause")
    code, said = ended(following)
    assert (code, "`orbitctl service web resume` goes on" in said) == (4, True)
    following = fleet.starts("service", "web", "rollback", "R1")
    heard(following, "back to revision R1")
    fleet.becomes(state="complete")
    assert ended(following)[0] == 0


@pytest.mark.parametrize("cluster", ["sqlite"], indirect=True)
def test_a_rollout_goes_on_when_nobody_follows_it_any_more(fleet: Fleet) -> None:
    late = fleet.service("set", "revision", "R2", "--no-verify", "--timeout", "1s", code=4)
    assert f"not done after 1 s, {A}, {B} left; it goes on by itself" in late.err
    following = fleet.starts("service", "web", "set", "revision", "R2", "--no-verify")
    heard(following, "was set already")
    fleet.steps(A, "pulling")
    heard(following, f"{A}  pulling")
    following.send_signal(signal.SIGINT)
    code, said = ended(following)
    assert code == 130
    assert "revision R2 goes on by itself: `orbitctl service web` shows it" in said
    present = fleet.rollout()
    assert present is not None
    assert present.state == "running"

    for address in (A, B):
        fleet.cluster.write(f"alive/{address}", None)
    alone = fleet.service("set", "revision", "R3", "--no-verify")
    assert "no machine that is alive runs this service" in alone.err


@pytest.mark.parametrize("cluster", ["sqlite"], indirect=True)
def test_on_a_terminal_the_machines_are_redrawn_in_place(fleet: Fleet) -> None:
    ours, theirs = pty.openpty()
    command = [*ORBITCTL, *fleet.cluster.options, "service", "web", "set", "revision", "R2", "--no-verify"]
    with subprocess.Popen(command, stderr=theirs, env=os.environ | {"TERM": "xterm"}) as following:
        os.close(theirs)
        seen = b""

        def shows(text: bytes) -> bool:
            nonlocal seen
            seen += os.read(ours, 65536)
            return text in seen

        eventually(lambda: shows(b"revision R2 set"), what="the revision set")
        fleet.steps(A, "pulling")
        eventually(lambda: shows(f"{A}  pulling".encode()), what="a step")
        fleet.steps(A, "starting")
        eventually(lambda: shows(b"\x1b[1A\x1b[J"), what="the line drawn anew")
        fleet.becomes(state="complete")
        assert following.wait(timeout=60) == 0
    os.close(ours)


@pytest.mark.parametrize("cluster", ["etcd"], indirect=True)
def test_a_machine_is_emptied_named_as_drained_and_forgotten(fleet: Fleet) -> None:
    running = InstanceReport(service="web", instance=1, state="running")
    fleet.tells(A, running)
    endpoint = Endpoint(id="i", machine=A, session="s", ack=True, state="draining")
    fleet.cluster.write(f"services/web/endpoints/{A}:80", encode(endpoint))
    fleet.cluster.write(f"services/web/loadbalancers/{BALANCER}", encode(LoadBalancer()))
    late = fleet.cluster.orbitctl("machine", A, "drain", "--timeout", "1s", code=4)
    assert f"not empty after 1 s: web {A}:80 draining, web instance 1 running" in late.err
    assert f"load balancer {BALANCER} has not confirmed that {A}:80 drains" in late.err
    rows = fleet.cluster.orbitctl("machines").out
    assert "ready, draining" in rows

    following = fleet.starts("machine", A, "drain")
    heard(following, "is drained already")
    heard(following, f"web {A}:80 draining")
    fleet.cluster.write(f"services/web/endpoints/{A}:80", None)
    fleet.tells(A, structs.replace(running, state="stopping"))
    heard(following, "web instance 1 stopping")
    fleet.tells(A)
    code, said = ended(following)
    assert (code, said.splitlines()[-1]) == (0, f"machine {A}: is empty")
    [first, _] = fleet.cluster.orbitctl("machines", "-o", "json").json
    assert (first["State"], first["Drain"]) == ("ready", "drained")

    following = fleet.starts("service", "web", "set", "revision", "R2", "on", "machine", A, "--no-verify")
    assert "no machine that is alive runs this service" in ended(following)[1], "it is to be empty"
    fleet.cluster.orbitctl("machine", A, "undrain")
    assert "alive" in fleet.cluster.orbitctl("machine", A, "forget", code=1).err
    fleet.cluster.write(f"alive/{A}", None)
    forgotten = fleet.cluster.orbitctl("machine", A, "forget")
    assert "its record" in forgotten.err
    assert f"unset revision on machine {A}" in forgotten.err
    assert [row["Address"] for row in fleet.cluster.orbitctl("machines", "-o", "json").json] == [B]
    assert "did you mean" in fleet.cluster.orbitctl("machine", A, "drain", code=1).err


@pytest.mark.parametrize("cluster", ["etcd"], indirect=True)
def test_an_import_is_waited_for_until_its_containers_are_replaced(fleet: Fleet) -> None:
    report = InstanceReport(service="web", instance=1, state="running", generation=2)
    old = structs.replace(report, outdated=True)
    changed = fleet.tree(**WEB | {"Container": {"Config": {"Image": "web:1", "Env": ["A=1"]}}})
    following = fleet.starts("import", changed, "--wait", "-o", "json")
    heard(following, "Waiting for 2 machines")
    for address in (A, B):
        fleet.tells(address, old, generation=2)
    heard(following, f"service web  pending: {A}, {B} left")
    fleet.service("relaunch", "--detach")
    rollout = fleet.becomes(cause="configuration")
    for address in (A, B):
        fleet.tells(address, report, generation=2)
    heard(following, f"service web  pending (rollout {rollout.id})")
    fleet.becomes(state="complete")
    out, _ = following.communicate(timeout=60)
    assert following.returncode == 0
    assert msgspec.json.decode(out)["Rollouts"] == [
        {"Service": "web", "State": "done", "Rollout": rollout.id, "Reason": ""}
    ]

    changed = fleet.tree(**WEB | {"Container": {"Config": {"Image": "web:1", "Env": ["A=2"]}}})
    following = fleet.starts("import", changed, "--wait")
    heard(following, "Waiting for 2 machines")
    fleet.service("relaunch", "--detach")
    fleet.becomes(cause="configuration", state="failed", reason="10.0.0.5: exit code 1")
    for address in (A, B):
        fleet.tells(address, structs.replace(old, generation=3), generation=3)
    out, said = following.communicate(timeout=60)
    assert following.returncode == 1
    assert "The rollout of web failed" in said
    assert "10.0.0.5: exit code 1" in out
