"""Images with the lab's web server, made of this machine's own Python, for any number of revisions.

There is no registry and no compiler: the interpreter is asked which files it has open once the server
is loaded, and these, with their libraries, are the one layer of all revisions. Revisions differ in
their environment alone, so ten of them are hardly larger than one.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from lab.commands import run
from support.docker import add_file

IMAGE = "lab-web"
Behaviour = Literal["good", "unhealthy", "exits"]

_SERVER = Path(__file__).with_name("server.py")
_ASK = """
import runpy, sys
runpy.run_path(sys.argv[1])
for module in list(sys.modules.values()):
    for name in (getattr(module, "__file__", None), getattr(module, "__cached__", None)):
        if name: print(name)
"""
_LIBRARY = re.compile(r"(/\S+) \(0x")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_OPTIONS = ("-I", "-S", "-B")


@dataclass(frozen=True)
class Revision:
    """One tag of the image. With ``finishes`` it ends its answers after SIGTERM; else it just dies."""

    name: str
    behaviour: Behaviour = "good"
    finishes: bool = False

    @property
    def reference(self) -> str:
        return f"{IMAGE}:{self.name}"

    @property
    def environment(self) -> list[str]:
        on_term = "finish" if self.finishes else "die"
        return [f"REVISION={self.name}", f"BEHAVIOUR={self.behaviour}", f"ON_TERM={on_term}"]


REVISIONS = (
    Revision("R1"),
    Revision("R2"),
    Revision("R3"),
    Revision("unhealthy", "unhealthy"),
    Revision("exits", "exits"),
)


def archive(revisions: Iterable[Revision]) -> bytes:
    """What ``docker load`` reads: each revision as an image on the same layer.

    The form is that of the Docker Image Specification v1.2, "Combined Image JSON + Filesystem Changeset".
    """
    layer, command, libraries = _layer()
    files = {"layer.tar": layer}
    manifest = []
    for revision in revisions:
        config = {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {
                "Cmd": command,
                "Env": [*revision.environment, f"LD_LIBRARY_PATH={libraries}", "PATH=/bin"],
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_digest(layer)}"]},
            "history": [{"created_by": f"the lab, revision {revision.name}"}],
        }
        text = json.dumps(config).encode()
        name = f"{_digest(text)}.json"
        files[name] = text
        manifest.append({"Config": name, "RepoTags": [revision.reference], "Layers": ["layer.tar"]})
    files["manifest.json"] = json.dumps(manifest).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data in files.items():
            add_file(tar, name, data, mode=0o644)
    return packed.getvalue()


@cache
def _layer() -> tuple[bytes, list[str], str]:
    """The file system, the command that starts the server in it, and where its libraries are."""
    interpreter = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    said = run(str(interpreter), *_OPTIONS, "-c", _ASK, str(_SERVER))
    files = {each for each in said.split("\n") if each and Path(each).is_file()}
    binaries = [str(interpreter), *sorted(each for each in files if each.endswith(".so"))]
    # a module without libraries of its own makes ldd end with 1
    said = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    libraries = set(_LIBRARY.findall(said))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", dereference=True) as tar:
        for path in sorted({str(interpreter), *files, *libraries}):
            tar.add(path)
        add_file(tar, "server.py", _SERVER.read_bytes(), mode=0o644)
    command = [str(interpreter), *_OPTIONS, "/server.py"]
    return packed.getvalue(), command, ":".join(sorted({str(Path(each).parent) for each in libraries}))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
