from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from orbitcontrol.docker import credentials
from orbitcontrol.docker.credentials import credentials_for
from orbitcontrol.errors import DockerError


def logged_in(directory: Path, config: dict[str, Any]) -> Path:
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def helper(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = directory / "docker-credential-test"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")


BASIC = {"auth": base64.b64encode(b"ann:pa:ss").decode()}


async def test_without_a_file_there_are_no_credentials(tmp_path: Path) -> None:
    assert await credentials_for("registry:5000/web", config_dir=tmp_path) is None


@pytest.mark.parametrize("key", ["registry:5000", "https://registry:5000/v2/", "http://registry:5000"])
async def test_an_entry_is_found_by_its_host_however_it_is_written(tmp_path: Path, key: str) -> None:
    config = logged_in(tmp_path, {"auths": {"other": BASIC, key: BASIC}})
    assert await credentials_for("registry:5000/team/web:1", config_dir=config) == {
        "username": "ann",
        "password": "pa:ss",
        "serveraddress": "registry:5000",
    }
    assert await credentials_for("elsewhere:5000/web", config_dir=config) is None


async def test_a_name_without_a_registry_uses_the_login_of_docker_hub(tmp_path: Path) -> None:
    config = logged_in(tmp_path, {"auths": {"https://index.docker.io/v1/": BASIC}})
    found = await credentials_for("team/web", config_dir=config)
    assert found is not None
    assert found["serveraddress"] == "https://index.docker.io/v1/"


async def test_an_identity_token_is_passed_as_such(tmp_path: Path) -> None:
    config = logged_in(tmp_path, {"auths": {"registry:5000": {"identitytoken": "t"}}})
    assert await credentials_for("registry:5000/web", config_dir=config) == {
        "identitytoken": "t",
        "serveraddress": "registry:5000",
    }


async def test_a_helper_of_the_registry_comes_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(
        tmp_path,
        monkeypatch,
        """read server; echo "{\\"Username\\": \\"<token>\\", \\"Secret\\": \\"$server\\"}" """,
    )
    config = logged_in(
        tmp_path, {"credHelpers": {"registry:5000": "test"}, "auths": {"registry:5000": BASIC}}
    )
    assert await credentials_for("registry:5000/web", config_dir=config) == {
        "identitytoken": "registry:5000",
        "serveraddress": "registry:5000",
    }


async def test_a_store_that_knows_nothing_of_the_registry_means_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch, "echo credentials not found in native keychain; exit 1")
    config = logged_in(tmp_path, {"credsStore": "test"})
    assert await credentials_for("registry:5000/web", config_dir=config) is None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "exit code 3"),
        ("echo no json", "not its protocol"),
        ("exec sleep 60", "did not answer within"),
    ],
)
async def test_a_broken_helper_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    monkeypatch.setattr(credentials, "HELPER_TIMEOUT", 0.3 if "sleep" in script else 10.0)
    helper(tmp_path, monkeypatch, script)
    config = logged_in(tmp_path, {"credsStore": "test"})
    with pytest.raises(DockerError, match=f"docker-credential-test .*{message}"):
        await credentials_for("registry:5000/web", config_dir=config)


async def test_a_helper_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = logged_in(tmp_path, {"credsStore": "no-such-helper"})
    with pytest.raises(
        DockerError, match=r"docker-credential-no-such-helper, named in Docker's config\.json"
    ):
        await credentials_for("registry:5000/web", config_dir=config)


async def test_a_broken_file_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DockerError, match=r"config.json: cannot be read"):
        await credentials_for("registry:5000/web", config_dir=tmp_path)
    config = logged_in(tmp_path, {"auths": {"registry:5000": {"auth": "€"}}})
    with pytest.raises(DockerError, match="is not base64"):
        await credentials_for("registry:5000/web", config_dir=config)
