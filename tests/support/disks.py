"""File systems that are small enough to be filled."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system of one megabyte on the directory; only root can mount one."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], check=True)
    try:
        yield path
    finally:  # whoever failed may have files open there
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(path: Path) -> Path:
    """Fills the disk that the directory is on, but for what is removed with the file that it returns."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return filler
    raise AssertionError(f"{path} has no end")
