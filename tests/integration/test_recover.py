"""``recover``, where machines disagree or are not heard."""

from __future__ import annotations

import json

import pytest

from orbitcontrol.codec.values import encode
from orbitcontrol.model.state import Alive, InstanceReport, MachineRecord
from support.machine import Cluster

pytestmark = pytest.mark.integration


def machine(cluster: Cluster, address: str, revision: str, serial: int, *, alive: bool = True) -> None:
    """A machine that trusted an earlier store, and what it runs, without a daemon."""
    instance = InstanceReport(
        service="web",
        instance=1,
        state="running",
        revision=revision,
        revision_source="service",
        serial=serial,
    )
    record = MachineRecord(epoch="old", generation=serial, holding="another store", instances=(instance,))
    cluster.write(f"machines/{address}", encode(record))
    if alive:
        cluster.write(f"alive/{address}", encode(Alive(session=address)))


def test_where_the_fleet_disagrees_a_person_decides_and_the_absent_are_not_heard(cluster: Cluster) -> None:
    service = {"Name": "web", "ContainerPort": 80, "Container": {"Config": {"Image": "web:1"}}}
    tree = cluster.tree({"services/web.json": service})
    cluster.orbitctl("import", str(tree))
    assert "nothing to recover" in cluster.orbitctl("recover").err
    machine(cluster, "10.0.0.1", "R1", 6)
    machine(cluster, "10.0.0.2", "R2", 7)
    machine(cluster, "10.0.0.3", "R3", 8, alive=False)
    before = cluster.stored("")
    asked = cluster.orbitctl("recover", "--write", code=None)
    assert asked.code != 0
    assert "the fleet runs R2, R1" in asked.err
    assert "10.0.0.3 has no lease and was not heard" in asked.err
    assert cluster.stored("") == before, "nothing is written"

    cluster.orbitctl("recover", "--write", "--yes")
    assert cluster.service("web")["Revision"] == "R2"
    [meta] = cluster.stored("config/meta")
    assert json.loads(meta.value)["Continues"] == {"old": 7}
    assert "nothing to recover" in cluster.orbitctl("recover").err
