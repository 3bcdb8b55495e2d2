"""The configuration as the store has it at one revision, with whoever runs it."""

from __future__ import annotations

from msgspec import Struct

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.errors import OrbitError, UndecodableValue
from orbitcontrol.model.state import ConfigMeta, MachineRecord
from orbitcontrol.model.stored import KeyValue
from orbitcontrol.planning.redolog import Redo, overlaid, read_log
from orbitcontrol.ports import Store

FORMAT_VERSION = 1
"""The store layout that this program reads and writes."""


class StoredConfiguration(Struct, frozen=True, kw_only=True):
    """``entries`` by key below ``config/``, without ``meta`` and without the logs of imports.

    While a large import is being applied, ``entries`` are what they will be when it is complete, and
    ``redo`` is what it does. ``dead_logs``: there are logs of imports that were not committed.
    ``meta`` is None where nothing was ever imported; ``read_meta`` is the key it came from.
    ``machines`` has the tags of each machine that left a readable record; ``known_generation`` is the
    highest that any of them says it knew, 0 where none does.
    """

    entries: dict[str, bytes]
    meta: ConfigMeta | None = None
    read_meta: KeyValue | None = None
    redo: Redo | None = None
    dead_logs: bool = False
    machines: dict[str, tuple[str, ...]] = {}
    known_generation: int = 0


async def read_configuration(store: Store, keys: Keys) -> StoredConfiguration:
    """Everything at one revision. Raises ``OrbitError`` for a layout that this program does not know."""
    config, machines = (await store.read(keys.config, keys.machines)).ranges
    read_meta = next((item for item in config if item.key == keys.meta), None)
    meta = _meta_of(read_meta, store.address)
    logs = [item for item in config if item.key in keys.import_logs]
    redo = None
    if meta is not None and meta.state == "applying":
        redo = read_log(logs, keys=keys, import_id=meta.import_id or "")
    entries = {
        item.key.removeprefix(keys.config.start): item.value
        for item in config
        if item != read_meta and item.key not in keys.import_logs
    }
    records = {keys.below(item.key)[-1]: _record(item) for item in machines}
    return StoredConfiguration(
        entries=entries if redo is None else overlaid(entries, redo),
        meta=meta,
        read_meta=read_meta,
        redo=redo,
        dead_logs=bool(logs) and redo is None,
        machines={address: record.tags for address, record in records.items()},
        known_generation=max((record.generation for record in records.values()), default=0),
    )


def _meta_of(item: KeyValue | None, address: str) -> ConfigMeta | None:
    if item is None:
        return None
    meta = decode(item.value, ConfigMeta, key=item.key)
    if meta.format_version > FORMAT_VERSION:
        raise OrbitError(
            f"{address}: {item.key} has FormatVersion {meta.format_version}, "
            f"this orbitctl knows {FORMAT_VERSION}; use a newer orbitctl"
        )
    return meta


def _record(item: KeyValue) -> MachineRecord:
    """A machine's record; an empty one where it cannot be read: an estimate must not stop an import."""
    try:
        return decode(item.value, MachineRecord, key=item.key)
    except UndecodableValue:
        return MachineRecord()
