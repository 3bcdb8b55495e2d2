"""The store is lost, restored from an older backup, or away: nothing that runs is touched for it."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from orbitcontrol.model.stored import KeyValue
from support.docker import Engine
from support.etcd import EtcdServer
from support.machine import Cluster, eventually
from support.site import Site
from support.traffic import traffic

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def serving_r2(site: Site) -> Path:
    """A site whose tree says R1 and whose store says R2; its tree."""
    site.engine.image("web:R1", says="this is R1")
    site.engine.image("web:R2", says="this is R2")
    tree = site.tree(site.web(image="web:R1"))
    site.cluster.orbitctl("import", str(tree))
    site.set_revision("R2", "--detach")
    site.machine.start()
    eventually(lambda: site.get() == "this is R2", what="R2 served")
    return tree


def problems(cluster: Cluster) -> str:
    found: list[dict[str, Any]] = cluster.look("status")["Problems"]
    return "\n".join(f"{each['Subject']}: {each['Reason']}" for each in found)


def add_service(tree: Path, name: str) -> None:
    text = f'{{"Name": "{name}", "EndpointPort": 9, "Checks": [{{"Type": "dummy"}}]}}'
    (tree / f"services/{name}.json").write_text(text)
    (tree / f"machineconfigurations/tags/app/services/{name}.json").write_text("{}")


def recover_and_see_nothing_change(site: Site) -> None:
    """From a held store to a trusted one, by the command that people are told to run."""
    before = site.started_at()
    shown = site.cluster.orbitctl("recover")
    assert "R2" in shown.out
    assert "holds" in shown.err
    [restoration] = site.cluster.orbitctl("recover", "-o", "json").json["Restorations"]
    assert (restoration["Service"], restoration["Revision"]) == ("web", "R2")
    site.cluster.orbitctl("recover", "--write")
    eventually(lambda: "orbitctl recover" not in problems(site.cluster), what="the holding ended")
    assert site.cluster.service("web")["Revision"] == "R2"
    assert "nothing to recover" in site.cluster.orbitctl("recover").err
    assert site.started_at() == before


def test_a_wiped_store_stops_nothing_and_is_filled_again_without_a_restart(site: Site) -> None:
    tree = serving_r2(site)
    containers = site.started_at()
    with traffic(site.get) as wrong:
        site.cluster.wipe()
        eventually(lambda: "no configuration" in problems(site.cluster), what="the loss reported")
        eventually(
            lambda: site.cluster.stored("services/web/endpoints/"), what="the endpoint registered again"
        )

        add_service(tree, "cache")
        site.cluster.orbitctl("import", str(tree))
        eventually(lambda: "filled anew" in problems(site.cluster), what="the new epoch held")
        eventually(lambda: site.cluster.endpoints("cache"), what="what is missing started")
        assert "R2 stays, the store says R1" in problems(site.cluster)
        assert site.started_at() == containers

        recover_and_see_nothing_change(site)
    assert wrong == []
    assert site.started_at() == containers


def test_a_store_restored_from_an_older_backup_rolls_nothing_back(site: Site) -> None:
    tree = serving_r2(site)
    backup = [item for item in site.cluster.stored("config/") if item.lease == 0]
    add_service(tree, "cache")
    site.cluster.orbitctl("import", str(tree))
    eventually(lambda: site.cluster.endpoints("cache"), what="the second service published")
    containers = site.started_at()
    with traffic(site.get) as wrong:
        site.cluster.write("deployments/web/revision", None)
        put_back(site.cluster, backup)
        eventually(lambda: "went back" in problems(site.cluster), what="the older store noticed")
        assert site.cluster.endpoints("cache")
        assert site.started_at() == containers

        site.cluster.orbitctl("import", str(tree))
        eventually(lambda: "R2 stays" in problems(site.cluster), what="still held after an import alone")
        recover_and_see_nothing_change(site)
    assert wrong == []
    assert site.started_at() == containers


def test_a_restarted_daemon_still_holds(site: Site) -> None:
    tree = serving_r2(site)
    containers = site.started_at()
    site.cluster.wipe()
    site.machine.stop()
    site.cluster.orbitctl("import", str(tree))
    site.machine.start(ready=False)
    eventually(lambda: "filled anew" in problems(site.cluster), what="the new epoch held")
    assert site.started_at() == containers
    assert site.get() == "this is R2"
    recover_and_see_nothing_change(site)


def test_a_machine_that_remembers_nothing_does_not_roll_back_what_it_finds_running(
    site: Site,
) -> None:
    tree = serving_r2(site)
    containers = site.started_at()
    site.machine.stop()
    site.cluster.wipe()
    (site.machine.directory / "state" / "snapshot.json").unlink()
    site.cluster.orbitctl("import", str(tree))
    site.machine.start()
    eventually(lambda: "R2 stays" in problems(site.cluster), what="the lost revision reported")
    assert site.started_at() == containers
    site.cluster.orbitctl("recover", "--write")
    eventually(lambda: "R2 stays" not in problems(site.cluster), what="the revision restored")
    assert site.started_at() == containers


def test_a_daemon_that_starts_without_its_store_works_from_what_it_knew(
    tmp_path: Path, own_etcd: EtcdServer, engine: Engine
) -> None:
    site = Site(Cluster(tmp_path, f"etcd://{own_etcd.endpoint}"), engine)
    try:
        serving_r2(site)
        before = site.started_at()["web"]
        site.machine.stop()
        own_etcd.stop()
        site.machine.start(ready=False)
        eventually(lambda: "working from the last known" in site.machine.text(), what="the snapshot used")
        assert site.started_at()["web"] == before
        assert site.get() == "this is R2"
        eventually(lambda: state_of(site, "web") == "running", what="its state told without the store")
        site.engine.docker("exec", "web", "busybox", "mv", "/www/index.html", "/away")
        eventually(lambda: state_of(site, "web") == "unhealthy", what="the failing check seen")
        eventually(lambda: not routed(site), what="out of the HAProxy here, as the last one too")
        site.engine.docker("exec", "web", "busybox", "mv", "/away", "/www/index.html")
        eventually(lambda: site.get() == "this is R2", what="back when its check passes")
        site.engine.docker("kill", "web")
        eventually(lambda: not routed(site), what="out with its container")
        eventually(lambda: site.started_at().get("web", before) != before, what="the container replaced")
        own_etcd.start()
        eventually(lambda: site.get() == "this is R2", what="the new container published and served")
    finally:
        site.machine.close()
        site.stop_haproxy()


def state_of(site: Site, service: str) -> str:
    """What the daemon itself says of the service's one instance; "" before it knows of any."""
    with urllib.request.urlopen(f"http://{site.machine.listen}/status", timeout=5) as answer:
        instances = json.load(answer)["Instances"]
    return str(instances[0]["State"]) if instances else ""


def routed(site: Site) -> bool:
    """True while HAProxy's configuration has a server of the service."""
    return "server web-" in (site.haproxy / "haproxy.cfg").read_text()


def put_back(cluster: Cluster, items: list[KeyValue]) -> None:
    """Restores keys as a backup has them, what came after it removed, in one step."""
    kept = {item.key for item in items}
    gone = [item.key for item in cluster.stored("config/") if item.key not in kept]
    cluster.replace({item.key: item.value for item in items}, gone)
