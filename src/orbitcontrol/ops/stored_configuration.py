"""The configuration as the store has it at one revision, with whoever runs it."""

from __future__ import annotations

from msgspec import Struct

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.errors import OrbitError, UndecodableValue
from orbitcontrol.model.state import ConfigMeta, MachineRecord
from orbitcontrol.model.stored import KeyValue
from orbitcontrol.ports import Store

FORMAT_VERSION = 1
"""The store layout that this program reads and writes."""


class StoredConfiguration(Struct, frozen=True, kw_only=True):
    """``entries`` by key below ``config/``, without ``meta`` and without the log of a running import.

    ``meta`` is None where nothing was ever imported; ``read_meta`` is the key it came from.
    ``machines`` has the tags of each machine that left a readable record; ``known_generation`` is the
    highest that any of them says it knew, 0 where none does.
    """

    entries: dict[str, bytes]
    meta: ConfigMeta | None = None
    read_meta: KeyValue | None = None
    machines: dict[str, tuple[str, ...]] = {}
    known_generation: int = 0


async def read_configuration(store: Store, keys: Keys) -> StoredConfiguration:
    """Everything at one revision. Raises ``OrbitError`` for a layout that this program does not know."""
    config, machines = (await store.read(keys.config, keys.machines)).ranges
    read_meta = next((item for item in config if item.key == keys.meta), None)
    meta = decode(read_meta.value, ConfigMeta, key=read_meta.key) if read_meta else None
    if meta is not None and meta.format_version > FORMAT_VERSION:
        raise OrbitError(
            f"{store.address}: {keys.meta} has FormatVersion {meta.format_version}, "
            f"this orbitctl knows {FORMAT_VERSION}; use a newer orbitctl"
        )
    entries = {item.key.removeprefix(keys.config.start): item.value for item in config if item != read_meta}
    records = {keys.below(item.key)[-1]: _record(item) for item in machines}
    return StoredConfiguration(
        entries={key: value for key, value in entries.items() if not key.startswith("import/")},
        meta=meta,
        read_meta=read_meta,
        machines={address: record.tags for address, record in records.items()},
        known_generation=max((record.generation for record in records.values()), default=0),
    )


def _record(item: KeyValue) -> MachineRecord:
    """A machine's record; an empty one where it cannot be read: an estimate must not stop an import."""
    try:
        return decode(item.value, MachineRecord, key=item.key)
    except UndecodableValue:
        return MachineRecord()
