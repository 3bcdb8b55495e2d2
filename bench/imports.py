"""How long `orbitctl import` takes for 1,000 services in 20 tags: into empty etcd, and again unchanged.

Each figure is a whole process, from its start to its end. An import of this size goes through the redo log.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _figures import report
from orbitcontrol.model.stored import Delete, Range
from orbitcontrol.store.open import open_store
from support.etcd import EtcdServer
from support.trees import TAGS, write_tree

RUNS = 11
SERVICES = 1000
NUMBER_OF_TAGS = 20
ORBITCTL = str(Path(sys.executable).with_name("orbitctl"))
EVERYTHING = Range.prefix("/orbit/")
ROUTED = 100
DEFAULTS = """\
global
    stats socket {{ socket }} level admin
    hard-stop-after 30s
defaults
    mode http
    retries 3
    option redispatch
    timeout http-request 5s
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend all
    bind 127.0.0.1:8080
"""
BACKEND = """\
backend {name}
    {{% for e in endpoints("{name}") -%}}
    server {{{{ e.name }}}} {{{{ e.address }}}} check
    {{% endfor %}}
"""
NAMES = [f"service-{number:04}" for number in range(SERVICES)]


def service(name: str) -> dict[str, Any]:
    return {
        "Name": name,
        "ContainerPort": 8080,
        "Instances": 2,
        "Container": {"Config": {"Image": f"registry.example.com/{name}:R1", "Env": ["A=1", "B=2"]}},
        "Checks": [{"Type": "http", "Url": "http://${ENDPOINT_HOST}:${ENDPOINT_PORT}/check", "Rise": 2}],
        "Attributes": {"team": "a"},
    }


def tree(root: Path) -> Path:
    """1,000 services, each bound to one of 20 tags, half of them with an override."""
    files: dict[str, Any] = {"globalproperties.json": {"AvailabilityZones": {"a": ["10.0.0.0/16"]}}}
    for number, name in enumerate(NAMES):
        files[f"services/{name}.json"] = service(name)
        binding = {"Attributes": {"weight": "2"}} if number % 2 else {}
        files[f"{TAGS}/tag-{number % NUMBER_OF_TAGS:02}/services/{name}.json"] = binding
    return write_tree(root, files)


def timed(url: str, directory: Path) -> float:
    begun = time.perf_counter()
    subprocess.run([ORBITCTL, "--store", url, "import", str(directory)], check=True, capture_output=True)
    return time.perf_counter() - begun


async def emptied(url: str) -> int:
    """Deletes everything; the revision after that."""
    store = open_store(url)
    try:
        return await store.commit([], [Delete(EVERYTHING)])
    finally:
        await store.close()


async def revision(url: str) -> int:
    store = open_store(url)
    try:
        return (await store.read(EVERYTHING)).revision
    finally:
        await store.close()


def measure(url: str, directory: Path, *, what: str) -> None:
    first, again, writes = [], [], 0
    for _ in range(RUNS):
        asyncio.run(emptied(url))
        first.append(timed(url, directory))
        before = asyncio.run(revision(url))
        again.append(timed(url, directory))
        writes += asyncio.run(revision(url)) - before
    report(f"import of {what} into empty etcd", first, reach="1,000 ms")
    report("again, unchanged", again, reach="500 ms")
    print(f"writes of all unchanged imports together: {writes} (to reach: 0)")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        server = EtcdServer(Path(directory) / "etcd")
        server.start()
        try:
            url = f"etcd://{server.endpoint}"
            root = tree(Path(directory) / "tree")
            measure(url, root, what=f"{SERVICES} services in {NUMBER_OF_TAGS} tags")
            template = DEFAULTS + "".join(BACKEND.format(name=name) for name in NAMES[:ROUTED])
            write_tree(root, {f"{TAGS}/lb/haproxy.tpl": template})
            measure(url, root, what=f"the same and a template of {ROUTED} backends, shown to HAProxy,")
        finally:
            server.stop()


main()
