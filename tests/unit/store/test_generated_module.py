from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
STORE = Path("orbitcontrol", "store")


def test_the_generated_module_is_what_its_proto_file_gives(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "generate-proto"
    subprocess.run([sys.executable, script, tmp_path], check=True)
    for name in ("etcd_rpc_pb2.py", "etcd_rpc_pb2.pyi"):
        kept = ROOT / "src" / STORE / name
        assert kept.read_text() == (tmp_path / STORE / name).read_text(), f"{name}: run {script.name}"
