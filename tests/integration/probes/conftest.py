"""What all tests of checks share: a run to ask, and a certificate that nobody signed."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from orbitcontrol.model.configuration import EffectiveService
from orbitcontrol.model.runs import Run, RunId
from orbitcontrol.model.service import Service


@pytest.fixture
def run() -> Run:
    return Run(
        id=RunId("web", 1),
        effective=EffectiveService(service=Service(name="web"), revision=""),
        host="127.0.0.1",
        port=8080,
    )


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's TLS context with a certificate for ``web.example``, signed by itself."""
    directory: Path = tmp_path_factory.mktemp("certificate")
    key, certificate = directory / "key.pem", directory / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=web.example", "-addext", "subjectAltName=DNS:web.example"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context
