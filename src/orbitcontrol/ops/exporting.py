"""``export``: the store's configuration as a tree. Importing it again plans nothing."""

from __future__ import annotations

from pathlib import Path

from orbitcontrol.codec.keys import Keys
from orbitcontrol.errors import OrbitError
from orbitcontrol.ops.stored_configuration import StoredConfiguration, read_configuration
from orbitcontrol.ports import Store
from orbitcontrol.tree.write import files_of, require_empty, write


async def export(store: Store, keys: Keys, directory: Path) -> int:
    """``write_tree`` with the store as it is. Raises ``OrbitError`` when it has no configuration."""
    require_empty(directory)
    return write_tree(await read_configuration(store, keys), directory, address=store.address)


def write_tree(stored: StoredConfiguration, directory: Path, *, address: str) -> int:
    """Writes the tree into a directory that is absent or empty; the number of files.

    Raises ``OrbitError`` when there is no configuration, ``TreeError`` when a key of it cannot be a
    file of a tree; nothing is written then. ``address`` is the store's, for messages.
    """
    require_empty(directory)
    if stored.meta is None and not stored.entries:
        raise OrbitError(f"{address}: the store has no configuration; run `orbitctl import` first")
    files = files_of(stored.entries)
    write(files, directory)
    return len(files)
