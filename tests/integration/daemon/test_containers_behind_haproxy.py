"""The main job: containers on the machine's engine, checked, published, and served by HAProxy."""

import json
import shutil
from pathlib import Path

import pytest

from support.docker import Engine
from support.machine import eventually
from support.site import TEMPLATE, Site

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

LEGACY_TREE = Path(__file__).parents[2] / "data" / "legacy-tree"


def test_two_instances_are_served_a_killed_one_returns_and_a_new_revision_arrives(site: Site) -> None:
    site.engine.image("web:R1", says="this is R1")
    site.engine.image("web:R2", says="this is R2")
    site.cluster.orbitctl("import", str(site.tree(site.web(image="web:R1", Instances=2))))
    site.machine.start()
    endpoints = site.cluster.endpoints("web")
    assert len({endpoint["Port"] for endpoint in endpoints}) == 2
    assert all(20000 <= endpoint["Port"] <= 29999 for endpoint in endpoints)
    assert site.engine.names() == {"web-1", "web-2"}
    eventually(lambda: site.get() == "this is R1", what="served by HAProxy")

    killed = site.started_at()["web-1"]
    site.engine.docker("kill", "web-1")
    eventually(lambda: site.started_at().get("web-1", killed) != killed, what="another container web-1")
    eventually(lambda: len(site.cluster.endpoints("web")) == 2, what="both published again")
    eventually(lambda: site.get() == "this is R1", what="still served")

    site.set_revision("R2")
    assert {endpoint["Revision"] for endpoint in site.cluster.endpoints("web")} == {"R2"}
    eventually(lambda: site.get() == "this is R2", what="the new revision served")

    site.cluster.orbitctl("service", "web", "unset", "revision")
    eventually(lambda: site.get() == "this is R1", what="the tree's revision again")


def test_a_restarted_daemon_changes_nothing(site: Site) -> None:
    site.engine.image("web:R1", says="this is R1")
    site.cluster.orbitctl("import", str(site.tree(site.web(image="web:R1", Instances=2))))
    site.machine.start()
    eventually(lambda: site.get() == "this is R1", what="served")
    endpoints = [one["Endpoint"] for one in site.cluster.endpoints("web")]

    def routed() -> bool:
        return all(f"server web-{endpoint} " in config.read_text() for endpoint in endpoints)

    config = site.haproxy / "haproxy.cfg"
    eventually(routed, what="both instances in HAProxy")
    before = site.started_at(), site.workers(), site.cluster.stored("services/"), config.read_text()
    changes = site.machine.changes_of_haproxy()
    site.machine.stop()
    assert site.get() == "this is R1"
    site.machine.start()
    eventually(
        lambda: site.machine.text().count("configuration in force") == 2, what="the configuration read"
    )
    assert site.get() == "this is R1"
    after = site.started_at(), site.workers(), site.cluster.stored("services/"), config.read_text()
    assert after == before
    assert site.machine.changes_of_haproxy() == changes


def test_a_refused_or_a_second_template_leaves_the_last_good_one_serving_with_current_endpoints(
    site: Site,
) -> None:
    site.engine.image("web:R1", says="this is R1")
    good = site.tree(site.web(image="web:R1"))
    site.cluster.orbitctl("import", str(good))
    site.machine.start()
    eventually(lambda: site.get() == "this is R1", what="served")

    bad = TEMPLATE.replace("    retries 3\n", "    retries 3\n    contimeout 5000\n")
    site.tree(site.web(image="web:R1"), template=bad)
    refused = site.cluster.orbitctl("import", str(good), code=None)
    assert refused.code == 1
    assert "haproxy.tpl:7" in refused.err
    site.cluster.orbitctl("import", str(good), "--no-haproxy-check")

    def verdict() -> str:
        return str(site.cluster.look("machines")[0]["Haproxy"])

    eventually(lambda: verdict().startswith("rejected"), what="the rejection reported")
    assert "haproxy.tpl:7" in verdict()
    assert "contimeout" in verdict()
    assert site.get() == "this is R1"

    site.engine.docker("kill", "web")
    eventually(lambda: site.get() == "", what="the ended container out of rotation")
    eventually(lambda: site.get() == "this is R1", what="the new container served by the last good template")

    second = site.tree(site.web(image="web:R1")) / "machineconfigurations/tags/app/haproxy.tpl"
    second.write_text(TEMPLATE.replace("backend web\n", "backend web\n    http-request deny\n") % {"port": 9})
    site.cluster.orbitctl("import", str(good))

    def told() -> str:
        problems = site.cluster.look("status")["Problems"]
        return "".join(each["Reason"] for each in problems if each["Subject"] == "127.0.0.1: template")

    both = "the tags app and lb of this machine both carry haproxy.tpl"
    eventually(lambda: both in told(), what="the second template reported")
    eventually(lambda: "the last good one goes on" in told(), what="what becomes of HAProxy reported")
    assert site.get() == "this is R1"
    second.unlink()
    site.cluster.orbitctl("import", str(good), "--yes")
    eventually(lambda: not told(), what="no trouble any more")
    assert site.get() == "this is R1"


def test_one_image_that_cannot_be_had_delays_nobody(site: Site) -> None:
    site.engine.image("web:R1", says="this is R1")
    tree = site.tree(site.web(image="web:R1"))
    broken = {"Name": "broken", "Container": {"Config": {"Image": "127.0.0.1:9/none:1"}}}
    (tree / "services/broken.json").write_text(json.dumps(broken))
    (tree / "machineconfigurations/tags/app/services/broken.json").write_text("{}")
    site.cluster.orbitctl("import", str(tree))
    site.machine.start()
    eventually(lambda: site.get() == "this is R1", what="the good service served")

    def told() -> bool:
        problems = site.cluster.look("status")["Problems"]
        return any("broken" in problem["Subject"] for problem in problems)

    eventually(told, what="the other one told")


def test_a_value_that_nobody_can_read_holds_its_service_and_nothing_else(site: Site) -> None:
    site.engine.image("web:R1", says="this is R1")
    site.cluster.orbitctl("import", str(site.tree(site.web(image="web:R1"))))
    site.machine.start()
    eventually(lambda: site.get() == "this is R1", what="served")
    before = site.started_at()

    site.cluster.write("config/services/web", b"{not json")
    site.cluster.write(
        "deployments/web/revision", b'{"Revision": "R9", "Serial": 1, "DeploymentTime": "", "User": ""}'
    )

    def reported() -> bool:
        problems = site.cluster.look("status")["Problems"]
        return any(each["Subject"] == "127.0.0.1: service web" for each in problems)

    eventually(reported, what="the unreadable value reported")
    assert site.started_at() == before
    assert site.get() == "this is R1"
    assert len(site.cluster.endpoints("web")) == 1


def test_the_tree_of_the_older_implementation_runs_once_its_template_is_brought_up_to_date(
    site: Site, tmp_path: Path
) -> None:
    answer_on_3500(site.engine, "ubuntu:latest", says="an old friend")
    tree = tmp_path / "legacy"
    shutil.copytree(LEGACY_TREE, tree)
    refused = site.cluster.orbitctl("validate", str(tree), code=1)
    assert "machineconfigurations/tags/testtag/haproxy.tpl:" in refused.err
    assert "contimeout" in refused.err

    template = TEMPLATE.replace('endpoints("web")', 'endpoints("ubuntu")') % {"port": site.port}
    (tree / "machineconfigurations/tags/testtag/haproxy.tpl").write_text(template)
    site.cluster.orbitctl("validate", str(tree))
    site.cluster.orbitctl("import", str(tree))
    site.machine = site.new_machine("testtag")
    site.machine.start()
    [endpoint] = site.cluster.endpoints("ubuntu")
    assert endpoint["Port"] == 3500
    assert site.engine.inspect("ubuntu", "{{.Config.Hostname}}") == "ubuntu-test"
    eventually(lambda: site.get("/check") == "an old friend", what="the legacy service served by HAProxy")


def answer_on_3500(engine: Engine, image: str, *, says: str) -> None:
    """An image whose own command answers on ``/check``, as the older tree's check asks."""
    base = engine.image(f"{image.partition(':')[0]}-base:1", says=says)
    command = "busybox cp /www/index.html /www/check && exec httpd -f -p 3500 -h /www"
    container = engine.docker("create", base, "true")
    engine.docker("commit", "--change", f"CMD {json.dumps(['sh', '-c', command])}", container, image)
    engine.docker("rm", container)
