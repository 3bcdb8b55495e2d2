"""Pulls from a registry that asks who one is, goes away and comes back."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from orbitcontrol.docker.runtime import DockerRuntime
from orbitcontrol.errors import DockerError
from support.containers import Machine, page, web
from support.docker import Engine
from support.registry import PASSWORD, USER, Registry

pytestmark = pytest.mark.integration

PORT = 23396


@pytest.fixture(autouse=True)
def _logged_in(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.log_in()
    monkeypatch.setenv("DOCKER_CONFIG", str(registry.docker_config))


@pytest.fixture
def pushed(engine: Engine, registry: Registry) -> str:
    """An image that the registry has and the engine has not."""
    image = engine.image(f"{registry.host}/team/web:1")
    registry.log_in()
    engine.docker("--config", str(registry.docker_config), "push", image)
    engine.remove_image(image)
    return image


async def test_an_image_is_pulled_with_the_credentials_of_docker_login(
    runtime: DockerRuntime, pushed: str
) -> None:
    assert not await runtime.has_image(pushed)
    await runtime.pull(pushed)
    assert await runtime.has_image(pushed)


@pytest.mark.parametrize("password", [None, "wrong"])
async def test_missing_and_wrong_credentials_are_told_with_what_to_do(
    runtime: DockerRuntime, registry: Registry, pushed: str, password: str | None
) -> None:
    if password is None:
        registry.configure({})
    else:
        registry.log_in(password=password)
    with pytest.raises(DockerError, match=rf"could not pull {pushed}: .*run docker login {registry.host}"):
        await runtime.pull(pushed)
    assert not await runtime.has_image(pushed)


async def test_an_image_is_pulled_with_what_a_credential_helper_answers(
    runtime: DockerRuntime,
    registry: Registry,
    pushed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    helper = tmp_path / "docker-credential-test"
    helper.write_text(
        f"#!/bin/sh\nread server\n[ $server = {registry.host} ] || exit 1\n"
        f'echo \'{{"Username": "{USER}", "Secret": "{PASSWORD}"}}\'\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    registry.configure({"credHelpers": {registry.host: "test"}})
    await runtime.pull(pushed)
    assert await runtime.has_image(pushed)


async def test_an_image_that_does_not_exist_is_an_error(runtime: DockerRuntime, registry: Registry) -> None:
    with pytest.raises(DockerError, match=f"could not pull {registry.host}/no/such:1: .*(not found|unknown)"):
        await runtime.pull(f"{registry.host}/no/such:1")


async def test_a_login_that_is_mended_is_used_by_the_next_attempt(
    machine: Machine, registry: Registry, pushed: str
) -> None:
    registry.configure({})
    machine.want(web("web", pushed, endpoint_port=PORT))
    assert "docker login" in await machine.reported("web", "failed")
    registry.log_in()
    [run] = await machine.runs(1)
    assert await page(run) == pushed


async def test_a_registry_that_is_down_is_asked_again_with_growing_pauses_until_it_is_back(
    machine: Machine, registry: Registry, pushed: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry.end()
    try:
        machine.want(web("web", pushed, endpoint_port=PORT))
        assert registry.host in await machine.reported("web", "failed")
        await machine.until_logged(caplog, "pull failed", count=3)
    finally:
        registry.start()
    [run] = await machine.runs(1)
    assert await page(run) == pushed
    times = [record.created for record in caplog.records if record.getMessage() == "pull failed"]
    first, second = [later - earlier for earlier, later in itertools.pairwise(times)][:2]
    assert first >= 0.8, "one second, give or take a fifth"
    assert second >= 1.6, "then two"
