"""``export``: the store's configuration as a tree. Importing it again plans nothing."""

from __future__ import annotations

from pathlib import Path

from orbitcontrol.codec.keys import Keys
from orbitcontrol.errors import OrbitError
from orbitcontrol.ops.stored_configuration import read_configuration
from orbitcontrol.ports import Store
from orbitcontrol.tree.write import files_of, require_empty, write


async def export(store: Store, keys: Keys, directory: Path) -> int:
    """Writes the tree into a directory that is absent or empty; the number of files.

    Raises ``OrbitError`` when the store has no configuration, ``TreeError`` when a key of it cannot
    be a file of a tree; nothing is written then.
    """
    require_empty(directory)
    stored = await read_configuration(store, keys)
    if stored.meta is None and not stored.entries:
        raise OrbitError(f"{store.address}: the store has no configuration; run `orbitctl import` first")
    files = files_of(stored.entries)
    write(files, directory)
    return len(files)
