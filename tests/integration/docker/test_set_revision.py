"""``set revision`` looks whether the image exists, in this machine's engine and in the registry."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from orbitcontrol.codec.registry import is_insecure
from orbitcontrol.docker.facts import engine_facts
from orbitcontrol.errors import OrbitError
from orbitcontrol.ops import images
from orbitcontrol.ops.images import require_images
from support.docker import Engine, OwnEngine
from support.machine import Cluster, Ran
from support.registry import Registry

pytestmark = pytest.mark.integration

NAME = "team/revision"


@pytest.fixture
def pushed(engine: Engine, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry that has R2 of an image, for those who log in; the engine has it no more."""
    image = engine.image(f"{registry.host}/{NAME}:R2")
    registry.log_in()
    engine.docker("--config", str(registry.docker_config), "push", image)
    engine.remove_image(image)
    monkeypatch.setenv("DOCKER_CONFIG", str(registry.docker_config))
    return registry


@pytest.fixture
def cluster(tmp_path: Path, registry: Registry) -> Cluster:
    """A store with a service whose image the registry may have."""
    cluster = Cluster(tmp_path, f"sqlite://{tmp_path}/store.db")
    image = f"{registry.host}/{NAME}:R1"
    service = {"Name": "web", "ContainerPort": 80, "Container": {"Config": {"Image": image}}}
    cluster.orbitctl("import", str(cluster.tree({"services/web.json": service})))
    return cluster


def set_revision(cluster: Cluster, revision: str, *options: str, code: int = 0) -> Ran:
    return cluster.orbitctl("service", "web", "set", "revision", revision, "--detach", *options, code=code)


def revision_of(cluster: Cluster) -> str:
    return str(cluster.service("web")["Revision"])


def test_a_revision_that_neither_the_registry_nor_the_engine_has_is_not_set(
    cluster: Cluster, pushed: Registry, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ("--docker-host", engine.host)
    set_revision(cluster, "R2", *here)
    assert revision_of(cluster) == "R2"

    image = f"{pushed.host}/{NAME}:R3"
    refused = set_revision(cluster, "R3", *here, code=1)
    assert refused.err == (
        f"orbitctl: image {image}: it does not exist: {pushed.host} has no R3 of {NAME} "
        f"(MANIFEST_UNKNOWN: manifest unknown), and Docker at {engine.host} does not have it. "
        "Push it first; --no-verify sets the revision all the same\n"
    )
    assert revision_of(cluster) == "R2"

    engine.image(image)
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    set_revision(cluster, "R3")
    assert revision_of(cluster) == "R3"
    engine.remove_image(image)


def test_without_engine_and_registry_a_revision_is_set_only_when_nobody_is_to_verify_it(
    cluster: Cluster, pushed: Registry, tmp_path: Path
) -> None:
    nowhere = ("--docker-host", f"unix://{tmp_path}/none.sock")
    set_revision(cluster, "R2", *nowhere)
    assert revision_of(cluster) == "R2", "the registry suffices"

    pushed.configure({})
    refused = set_revision(cluster, "R4", *nowhere, code=1)
    assert refused.err == (
        f"orbitctl: image {pushed.host}/{NAME}:R4: nobody can tell whether it exists: "
        f"{pushed.host} asks for a login: run docker login {pushed.host}; "
        f"no Docker engine answers at unix://{tmp_path}/none.sock: start it, or name its address with "
        "--docker-host. Mend one of the two; --no-verify sets the revision without asking\n"
    )
    assert revision_of(cluster) == "R2"
    set_revision(cluster, "R4", *nowhere, "--no-verify")
    assert revision_of(cluster) == "R4"

    elsewhere = set_revision(cluster, "R5", "--docker-host", "ssh://machine", code=1)
    assert "ssh://machine: write it as unix:///path" in elsewhere.err
    assert "--no-verify" in elsewhere.err


async def test_an_engine_that_hangs_does_not_hold_up_the_question(
    pushed: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "ENGINE_PATIENCE", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        host = f"unix://{tmp_path}/silent.sock"
        there, first, second = (f"{pushed.host}/{NAME}:{tag}" for tag in ("R2", "R3", "R4"))
        await require_images((there,), docker_host=host)
        with pytest.raises(OrbitError) as refused:
            await require_images((first, there, second), docker_host=host)
    lines = str(refused.value).splitlines()
    assert [line.split(" it does")[0] for line in lines] == [f"image {first}:", f"image {second}:"]
    assert f"and Docker at {host} did not answer within 0.2 s." in lines[0]


def test_a_registry_is_insecure_where_the_engine_was_told_so(own_engine: OwnEngine) -> None:
    def insecure(host: str) -> bool:
        return is_insecure(host, asyncio.run(engine_facts(own_engine.host)).insecure_registries)

    assert insecure("127.0.0.1:5000")
    assert not insecure("registry.example:5000")
    with own_engine.calling_insecure("registry.example:5000"):
        assert insecure("registry.example:5000")
        assert not insecure("registry.example:5001")
