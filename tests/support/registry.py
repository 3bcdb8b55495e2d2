"""A real image registry for tests, on a free port of 127.0.0.1."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.etcd import free_ports

USER, PASSWORD = "orbit", "secret"

_HTPASSWD = f"{USER}:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n"
_STARTUP = 30.0


class Registry:
    """Where images can be pushed to and pulled from by those who have logged in.

    ``auth`` and ``tls`` are its settings of these names.
    """

    def __init__(
        self, directory: Path, port: int, *, images: Path, auth: dict[str, Any], tls: dict[str, Any]
    ) -> None:
        self.host = f"127.0.0.1:{port}"
        self.images = images
        self._directory = directory
        self._auth = auth
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        self.docker_config = directory / "docker"
        self.docker_config.mkdir()
        self.log_in()

    def start(self) -> None:
        """Starts it, and returns when it answers."""
        directory = self._directory
        (directory / "htpasswd").write_text(_HTPASSWD)
        settings = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.images)}},
            "auth": self._auth,
            "http": {"addr": self.host, "secret": "of the tests", "tls": self._tls},
        }
        (directory / "registry.yml").write_text(json.dumps(settings))  # JSON is YAML
        command = ["docker-registry", "serve", str(directory / "registry.yml")]
        with (directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        _wait_for_port(int(self.host.rpartition(":")[2]), directory / "log")

    def end(self) -> None:
        """Ends it; its images stay for the next start."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=30)
            self._process = None

    def log_in(self, *, password: str = PASSWORD) -> None:
        """Leaves in ``docker_config`` what ``docker login`` would."""
        auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
        self.configure({"auths": {self.host: {"auth": auth}}})

    def configure(self, config: dict[str, object]) -> None:
        (self.docker_config / "config.json").write_text(json.dumps(config))


@contextmanager
def started_registry(
    directory: Path,
    *,
    images: Path | None = None,
    auth: dict[str, Any] | None = None,
    tls: dict[str, Any] | None = None,
) -> Iterator[Registry]:
    """A registry, ended by its pid. By default it knows one user and password, and speaks HTTP.

    ``images`` is where another one keeps them, to show the same.
    """
    if shutil.which("docker-registry") is None:
        pytest.fail("docker-registry is missing: install the distribution's package of that name")
    [port] = free_ports(1)
    directory.mkdir(exist_ok=True)
    passwords = {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}
    registry = Registry(
        directory,
        port,
        images=images or directory / "images",
        auth=passwords if auth is None else auth,
        tls=tls or {},
    )
    registry.start()
    try:
        yield registry
    finally:
        registry.end()


def _wait_for_port(port: int, log: Path) -> None:
    deadline = time.monotonic() + _STARTUP
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"docker-registry does not answer after {_STARTUP:g} s:\n{log.read_text()[-2000:]}")
