"""Configuration trees for tests, written from a mapping of paths to contents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LEGACY_TREE = Path(__file__).parents[1] / "data" / "legacy-tree"
TAGS = "machineconfigurations/tags"

SOUND: Mapping[str, Any] = {
    "services/web.json": {
        "Name": "web",
        "EndpointPort": 8080,
        "Container": {"Config": {"Image": "nginx:1", "Env": ["A=1"]}},
        "Checks": [{"Type": "http", "Url": "http://${ENDPOINT_HOST}:${ENDPOINT_PORT}/"}],
    },
    f"{TAGS}/app/services/web.json": {},
    f"{TAGS}/lb/haproxy.tpl": "global\n",
}
"""A tree without a fault and without a warning."""


def write_tree(root: Path, files: Mapping[str, Any]) -> Path:
    """Writes texts and bytes as they are, everything else as JSON, and None not at all; the root."""
    for path, content in files.items():
        if content is None:
            continue
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            target.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return root


def sound_tree(root: Path, **changes: Any) -> Path:
    """``SOUND`` with some of its files replaced, added, or left out (None)."""
    return write_tree(root, {**SOUND, **changes})
