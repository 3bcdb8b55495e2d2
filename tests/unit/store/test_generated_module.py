from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
GENERATED = ("store/etcd_rpc_pb2", "probes/grpc_health_pb2")


def test_the_generated_modules_are_what_their_proto_files_give(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "generate-proto"
    subprocess.run([sys.executable, script, tmp_path], check=True)
    for name in (f"orbitcontrol/{module}{suffix}" for module in GENERATED for suffix in (".py", ".pyi")):
        kept = ROOT / "src" / name
        assert kept.read_text() == (tmp_path / name).read_text(), f"{name}: run {script.name}"
