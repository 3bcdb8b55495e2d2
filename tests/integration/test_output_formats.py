"""What reading commands print for programs is what docs/cli.md says, in JSON and in YAML alike."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from orbitcontrol.cli import run
from orbitcontrol.codec.values import encode
from orbitcontrol.model.rollouts import Aim, Progress, Rollout
from orbitcontrol.model.state import Alive, Endpoint, EndpointChange, InstanceReport, MachineRecord, Problem
from orbitcontrol.planning.rollout_records import past_of
from support.machine import Cluster

pytestmark = pytest.mark.integration

PAGE = (Path(__file__).parents[2] / "docs/cli.md").read_text()
ROWS = {
    row[0]: row[1]
    for row in re.findall(r"^\| `([\w ]+)` \| (.*\{.*|list of texts.*) \|$", PAGE, re.MULTILINE)
}
ELSEWHERE = {"Endpoints": "endpoints", "Machines": "machines", "Services": "service NAME"}
"""Lists whose records stand in the row of another command."""

Command = Callable[..., str]


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a reading command on a cluster in which there is something of everything; what it prints."""
    cluster = Cluster(tmp_path, f"sqlite://{tmp_path}/store.db")
    web = {"Name": "web", "EndpointPort": 80, "Container": {"Config": {"Image": "web:1"}}}
    bound: dict[str, Any] = {"machineconfigurations/tags/app/services/web.json": {}}
    cluster.orbitctl("import", str(cluster.tree({"services/web.json": web, **bound})))
    web["Container"] = {"Config": {"Image": "web:2"}}
    cluster.tree({"services/web.json": web, **bound})
    report = InstanceReport(
        service="web", instance=1, state="running", revision="R1", revision_source="service", serial=3
    )
    change = EndpointChange(
        service="web",
        endpoint="10.0.0.5:80",
        id="i",
        step="published",
        reason="its checks pass",
        at="2026-01-01T10:00:00.000Z",
        revision=7,
    )
    record = MachineRecord(
        tags=("app",),
        epoch="another",
        holding="the store was filled anew",
        instances=(report,),
        problems=(Problem(subject="service web", reason="instance 1: refused"),),
        changes=(change,),
    )
    endpoint = Endpoint(id="i", machine="10.0.0.5", session="s")
    cluster.write("machines/10.0.0.5", msgspec.json.encode(record))
    cluster.write("alive/10.0.0.5", msgspec.json.encode(Alive(session="s", registered=True)))
    cluster.write("services/web/endpoints/10.0.0.5:80", msgspec.json.encode(endpoint))
    rollout = Rollout(id="r", cause="revision", target=Aim(revision="R1"), machines=("10.0.0.5",))
    past = past_of(rollout, outcome="failed", ended="2026-01-01T10:00:00Z")
    cluster.write("deployments/web/rollout", encode(rollout))
    cluster.write("deployments/web/history/r", encode(past))
    cluster.write("services/web/progress/10.0.0.5", encode(Progress(rollout="r")))

    def printed(name: str, output: str) -> str:
        words = name.replace("NAME", "web").split()
        if name in {"plan", "verify"}:
            words.append(str(tmp_path / "tree"))
        if name == "why":
            words.append("10.0.0.5:80")
        if name == "doctor":
            words += ["--state-dir", str(tmp_path), "--docker-host", f"unix://{tmp_path}/none.sock"]
        run([*cluster.options, *words, "-o", output])
        return capsys.readouterr().out

    return printed


def fields(schema: str) -> set[str]:
    """``{A, B}`` as a set of names."""
    found = re.search(r"\{([^}]*)\}", schema)
    assert found, schema
    return set(found[1].split(", "))


def schema_of(list_name: str, row: str) -> str:
    """How the records in a list of this row are described: there, for all rows, or with another command."""
    described = rf"`{list_name}` are `(\{{[^}}]*\}})`"
    found = re.search(described, row) or re.search(rf"^{described}\.$", PAGE, re.MULTILINE)
    return found[1] if found else ROWS[ELSEWHERE[list_name]]


def check(record: dict[str, Any], row: str, *, seen: set[str]) -> None:
    """The record, and those within it, have the fields that the row names; ``seen`` gets the lists' names."""
    assert set(record) == fields(row), row
    for name, value in record.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            seen.add(name)
            described = schema_of(name, row)
            inner = ROWS[ELSEWHERE[name]] if described in ROWS.values() else described
            for each in value:
                check(each, inner, seen=seen)
        if name == "Rollout" and isinstance(value, dict):
            found = re.search(r"`Rollout` is null where there was none, or `(\{[^}]*\}.*)", row)
            assert found
            check(value, found[1], seen=seen)


def shape(value: object) -> object:
    """What stays the same when a command is run again: names and kinds, not times and sizes."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else type(value)


@pytest.mark.parametrize(
    ("name", "lists"),
    [
        ("plan", {"Changes", "Machines"}),
        ("verify", set()),
        ("endpoints", set()),
        ("machines", {"Problems"}),
        ("tags", set()),
        ("service", {"Endpoints", "Instances", "Problems", "Steps"}),
        ("service NAME", {"Endpoints", "Instances", "Problems", "Steps"}),
        ("service NAME history", set()),
        ("status", {"Machines", "Services", "Problems", "Endpoints", "Instances", "Steps"}),
        ("why", {"Steps"}),
        ("recover", {"Restorations"}),
        ("doctor", set()),
    ],
)
def test_records_have_the_fields_that_the_page_names(command: Command, name: str, lists: set[str]) -> None:
    printed = json.loads(command(name, "json"))
    assert printed
    seen: set[str] = set()
    if name == "verify":
        assert all(isinstance(each, str) for each in printed)
    else:
        row = ROWS["service NAME" if name == "service" else name]
        for record in printed if isinstance(printed, list) else [printed]:
            check(record, row, seen=seen)
    assert seen == lists
    assert shape(yaml.safe_load(command(name, "yaml"))) == shape(printed)
    table, wide = command(name, "table").splitlines(), command(name, "wide").splitlines()
    assert len(table) == len(wide) > 0
    if name in {"endpoints", "machines", "tags", "service", "service NAME history"}:
        assert set(table[0].split()) < set(wide[0].split())


def test_the_page_describes_every_command_that_prints_records() -> None:
    described = {*ROWS, "service"} - {"service NAME"}
    sources = (Path(__file__).parents[2] / "src/orbitcontrol/cli").glob("*.py")
    printing = sum(source.read_text().count("@output_option") for source in sources)
    assert len(described) == printing
