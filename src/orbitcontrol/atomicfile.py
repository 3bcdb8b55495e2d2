"""Files that are replaced whole or stay as they were, whatever happens in between.

The content is written beside its place, synced, renamed over it, and the directory synced: whoever
reads, at whatever moment and after whatever power failure, finds the old content or the new one.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def replace_file(path: Path, content: bytes, *, keep_access: bool = False) -> os.stat_result:
    """Replaces the file; what it is then. Raises OSError with the old content untouched.

    Only its owner may read it (mode 0600), who is whoever runs this; with ``keep_access`` a file that
    was there keeps its owner, its group and its mode.
    """
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            if keep_access and path.exists():
                before = path.stat()
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
            written = os.fstat(file.fileno())  # of this very file, whoever replaces it now
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return written


def sync_directory(directory: Path) -> None:
    """Waits until the directory's entries are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
