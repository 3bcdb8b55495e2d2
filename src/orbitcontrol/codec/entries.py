"""What a configuration consists of: entries, named alike in the store and in a tree.

An entry's key is what stands below ``config/`` in the store (``tags/edge/certs/a.pem``); its path is
where the tree has it (``machineconfigurations/tags/edge/certs/a.pem``). Import, export and plan all
speak of entries; this module alone knows both spellings. Values are JSON: the author's document with
sorted keys and nothing added, or ``{"Content": …}`` for a text file, so that equal trees make equal
bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from orbitcontrol.codec.values import decode, encode
from orbitcontrol.model.configuration import Text
from orbitcontrol.model.service import NAME_PATTERN

Kind = Literal[
    "global", "service", "binding", "authoritative_names", "template", "certificate", "haproxy_file"
]

TEXT_KINDS: frozenset[Kind] = frozenset({"template", "certificate", "haproxy_file"})
TAGS_FOLDER = "machineconfigurations/tags"

_NAME = re.compile(NAME_PATTERN)
_FILES: dict[str, Kind] = {"certs": "certificate", "haproxy_files": "haproxy_file"}
_FOLDERS: dict[Kind, str] = {kind: folder for folder, kind in _FILES.items()}
_LONGEST_NAME = 200
_CANONICAL = msgspec.json.Encoder(order="sorted")


class EntryKey(Struct, frozen=True, kw_only=True):
    """One entry's place: ``tag`` and ``name`` are "" where its kind has none."""

    kind: Kind
    tag: str = ""
    name: str = ""

    @property
    def key(self) -> str:
        """Its key below ``config/``."""
        match self.kind:
            case "global":
                return "globalproperties"
            case "service":
                return f"services/{self.name}"
            case "binding":
                return f"tags/{self.tag}/services/{self.name}"
            case "authoritative_names":
                return f"tags/{self.tag}/authoritative_names"
            case "template":
                return f"tags/{self.tag}/haproxy_config"
            case "certificate" | "haproxy_file":
                return f"tags/{self.tag}/{_FOLDERS[self.kind]}/{self.name}"

    @property
    def path(self) -> str:
        """Its file in a tree, relative, with ``/`` between the parts."""
        folder = f"{TAGS_FOLDER}/{self.tag}"
        match self.kind:
            case "global":
                return "globalproperties.json"
            case "service":
                return f"services/{self.name}.json"
            case "binding":
                return f"{folder}/services/{self.name}.json"
            case "authoritative_names":
                return f"{folder}/authoritative_names.json"
            case "template":
                return f"{folder}/haproxy.tpl"
            case "certificate" | "haproxy_file":
                return f"{folder}/{_FOLDERS[self.kind]}/{self.name}"


def parse_key(key: str) -> EntryKey | None:
    """The way back from a key; None for a key that no tree can have, or a name that no file may have."""
    entry: EntryKey | None = None
    match key.split("/"):
        case ["globalproperties"]:
            entry = EntryKey(kind="global")
        case ["services", name]:
            entry = EntryKey(kind="service", name=name)
        case ["tags", tag, "authoritative_names"]:
            entry = EntryKey(kind="authoritative_names", tag=tag)
        case ["tags", tag, "haproxy_config"]:
            entry = EntryKey(kind="template", tag=tag)
        case ["tags", tag, "services", name]:
            entry = EntryKey(kind="binding", tag=tag, name=name)
        case ["tags", tag, "certs" | "haproxy_files" as folder, name]:
            entry = EntryKey(kind=_FILES[folder], tag=tag, name=name)
    return entry if entry is not None and _is_well_named(entry) else None


def _is_well_named(entry: EntryKey) -> bool:
    match entry.kind:
        case "global":
            return True
        case "service":
            return is_name(entry.name)
        case "binding":
            return is_name(entry.tag) and is_name(entry.name)
        case "certificate" | "haproxy_file":
            return is_name(entry.tag) and is_file_name(entry.name)
        case "authoritative_names" | "template":
            return is_name(entry.tag)


def is_name(name: str) -> bool:
    """Whether a service or a tag may be called so."""
    return len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) is not None


def is_file_name(name: str) -> bool:
    """Whether it is a single, visible path component that can be written anywhere as it is."""
    return (
        name != ""
        and not name.startswith(".")
        and "/" not in name
        and name.isprintable()
        and len(name.encode(errors="replace")) <= _LONGEST_NAME
    )


def encode_document(plain: Any) -> bytes:
    """A canonical JSON document as an entry's value."""
    return _CANONICAL.encode(plain)


def encode_text(content: str) -> bytes:
    """A text file as an entry's value."""
    return encode(Text(content=content))


def decode_text(value: bytes, *, key: str) -> str:
    """The text file in an entry's value. Raises ``UndecodableValue`` naming the key."""
    return decode(value, Text, key=f"config/{key}").content


def same_value(one: bytes, other: bytes) -> bool:
    """Whether two values mean the same JSON, however they are spaced and ordered."""
    if one == other:
        return True
    try:
        return _comparable(json.loads(one)) == _comparable(json.loads(other))
    except (ValueError, RecursionError):
        return False


def _comparable(value: Any) -> str:
    # As text, because Python holds 1, 1.0 and true for equal, and JSON's readers do not.
    return json.dumps(value, sort_keys=True)


def digest_input(entries: Mapping[str, bytes]) -> bytes:
    """Bytes that are equal exactly when two configurations are, to be hashed."""
    return b"".join(
        b"%d %s %d %s\n" % (len(key.encode()), key.encode(), len(value), value)
        for key, value in sorted(entries.items())
    )
