"""Certificates for tests, made by openssl: an authority, and whom it vouches for, and until when."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Authority:
    """A certificate authority with its files in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._openssl("req", "-x509", *self._new_key("ca"), "-out", self.ca, "-subj", "/CN=authority")

    @property
    def ca(self) -> str:
        return str(self._directory / "ca.pem")

    def cert(self, name: str) -> str:
        return str(self._directory / f"{name}.pem")

    def key(self, name: str) -> str:
        return str(self._directory / f"{name}.key")

    def sign(self, name: str, *, names: str, days: int = 10) -> None:
        """Makes ``cert(name)`` and ``key(name)`` for ``names`` (``DNS:localhost,IP:127.0.0.1``).

        With negative ``days`` they are expired.
        """
        request, extensions = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")
        self._openssl("req", *self._new_key(name), "-out", str(request), "-subj", f"/CN={name}")
        self._openssl(
            *("x509", "-req", "-in", str(request), "-CA", self.ca, "-CAkey", self.key("ca")),
            *("-CAcreateserial", "-out", self.cert(name), "-days", str(days), "-extfile", str(extensions)),
        )

    def _new_key(self, name: str) -> tuple[str, ...]:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        return (*curve, "-nodes", "-keyout", self.key(name))

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
