"""The machine's own Docker credentials: what ``docker login`` left in ``config.json``.

As in the docker command line, a credential helper named for the registry comes first
(``credHelpers``), then the default store (``credsStore``), then the file itself (``auths``).
Format: https://docs.docker.com/reference/cli/docker/login/; helpers are programs named
``docker-credential-NAME`` that read the server on standard input and write JSON.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from pathlib import Path
from typing import Any

from orbitcontrol.codec.imageref import DOCKER_HUB, registry_of
from orbitcontrol.errors import DockerError

HELPER_TIMEOUT = 10.0
"""Seconds that a credential helper has to answer."""

_HUB_SERVER = "https://index.docker.io/v1/"
_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_TOKEN_USER = "<token>"  # noqa: S105 -- the helpers' word for "the secret is an identity token"


async def credentials_for(image: str, *, config_dir: Path | None = None) -> dict[str, str] | None:
    """What to send as ``X-Registry-Auth`` when pulling ``image``; None to pull without.

    ``config_dir`` is ``DOCKER_CONFIG`` or ``~/.docker`` unless given. Raises DockerError when the
    file or a helper that it names is broken: a pull without credentials would only hide that.
    """
    path = (config_dir or Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")) / "config.json"
    config = _read(path)
    registry = registry_of(image)
    server = _HUB_SERVER if registry == DOCKER_HUB else registry
    helper = _matching(config.get("credHelpers"), registry) or config.get("credsStore")
    if helper:
        return await _from_helper(str(helper), server)
    entry = _matching(config.get("auths"), registry)
    return _from_entry(entry, server, path) if isinstance(entry, dict) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DockerError(f"{path}: cannot be read ({error}): mend it, or run docker login again") from error
    return content if isinstance(content, dict) else {}


def _matching(entries: Any, registry: str) -> Any:
    """The entry whose key names the registry, as a host or as one of the older URLs."""
    if not isinstance(entries, dict):
        return None
    return next((entry for key, entry in entries.items() if _host(key) == registry), None)


def _host(key: str) -> str:
    host = key.split("://", 1)[-1].split("/", 1)[0]
    return DOCKER_HUB if host in _HUB_HOSTS else host


def _from_entry(entry: dict[str, Any], server: str, path: Path) -> dict[str, str] | None:
    if entry.get("identitytoken"):
        return {"identitytoken": str(entry["identitytoken"]), "serveraddress": server}
    if not entry.get("auth"):
        return None
    try:
        user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
    except ValueError as error:
        raise DockerError(
            f"{path}: the auth entry of {server} is not base64: run docker login again"
        ) from error
    return {"username": user, "password": password.rstrip("\0"), "serveraddress": server}


async def _from_helper(name: str, server: str) -> dict[str, str] | None:
    program = f"docker-credential-{name}"
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            "get",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        raise DockerError(
            f"{program}, named in Docker's config.json, cannot be run ({error}): install it on this machine"
        ) from error
    try:
        async with asyncio.timeout(HELPER_TIMEOUT):
            output, _ = await process.communicate(server.encode())
    except TimeoutError as error:
        raise DockerError(f"{program} did not answer within {HELPER_TIMEOUT:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        if b"credentials not found" in output:
            return None
        raise DockerError(f"{program} has no credentials for {server} (exit code {process.returncode})")
    return _from_answer(output, program, server)


def _from_answer(output: bytes, program: str, server: str) -> dict[str, str]:
    try:
        answer = json.loads(output)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise DockerError(f"{program} answered something that is not its protocol for {server}") from error
    if user == _TOKEN_USER:
        return {"identitytoken": secret, "serveraddress": server}
    return {"username": user, "password": secret, "serveraddress": server}
