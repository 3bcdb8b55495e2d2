"""The configuration as the store holds it: entries below ``config/`` to values.

An entry is a key below ``config/`` and its JSON bytes:

    globalproperties                        GlobalProperties
    services/<service>                      Service, as the author wrote it, keys in PascalCase
    tags/<tag>/authoritative_names          list of image names
    tags/<tag>/haproxy_config               Text
    tags/<tag>/services/<service>           Binding
    tags/<tag>/certs/<file>                 Text
    tags/<tag>/haproxy_files/<file>         Text

A reader meets values that it did not write. One that cannot be understood is left out and named
in ``broken``, so that the caller can leave alone whatever depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from msgspec import Struct, structs

from orbitcontrol.codec.values import decode
from orbitcontrol.errors import UndecodableValue
from orbitcontrol.model.configuration import Configuration, Tag, Text
from orbitcontrol.model.service import Binding, GlobalProperties, Service

T = TypeVar("T")


class ParsedConfiguration(Struct, frozen=True):
    """What could be understood, and by entry why the rest could not."""

    configuration: Configuration
    broken: dict[str, str]


def parse_entries(
    entries: Mapping[str, bytes], *, known: Mapping[str, Any] | None = None
) -> ParsedConfiguration:
    """Reads entries below ``config/``; ``meta`` and the log of an import are passed over.

    ``known`` has the values of entries that the caller has read already.
    """
    reader = _Reader(entries, known or {})
    services: dict[str, Service] = {}
    tags: dict[str, Tag] = {}
    for entry in sorted(entries):
        match entry.split("/"):
            case ["services", name]:
                service = reader.service(entry, name)
                if service is not None:
                    services[name] = service
            case ["tags", tag, *rest]:
                tags[tag] = reader.into_tag(tags.get(tag, Tag(name=tag)), entry, rest)
            case ["globalproperties" | "meta"] | ["import", *_]:
                pass
            case _:
                reader.broken[entry] = "there is no such entry in this version's store layout"
    properties = reader.value("globalproperties", GlobalProperties) if "globalproperties" in entries else None
    configuration = Configuration(
        global_properties=properties or GlobalProperties(), services=services, tags=tags
    )
    return ParsedConfiguration(configuration, reader.broken)


class _Reader:
    def __init__(self, entries: Mapping[str, bytes], known: Mapping[str, Any]) -> None:
        self._entries = entries
        self._known = known
        self.broken: dict[str, str] = {}

    def value(self, entry: str, expected: type[T]) -> T | None:
        """The entry's value, or None after noting why it cannot be had."""
        value: T | None = self._known.get(entry)
        if value is not None:
            return value
        try:
            return decode(self._entries[entry], expected, key=f"config/{entry}")
        except UndecodableValue as error:
            self.broken[entry] = str(error)
            return None

    def service(self, entry: str, name: str) -> Service | None:
        service = self.value(entry, Service)
        if service is not None and service.name != name:
            self.broken[entry] = f"config/{entry}: its Name is {service.name!r}"
            return None
        return service

    def into_tag(self, tag: Tag, entry: str, rest: list[str]) -> Tag:
        """The tag with one more entry taken in; unchanged where that is not understood."""
        match rest:
            case ["services", name]:
                binding = self.value(entry, Binding)
                return tag if binding is None else _with(tag, services={**tag.services, name: binding})
            case ["authoritative_names"]:
                names = self.value(entry, tuple[str, ...])
                return tag if names is None else _with(tag, authoritative_names=names)
            case ["haproxy_config"]:
                text = self.value(entry, Text)
                return tag if text is None else _with(tag, template=text.content)
            case ["certs", name]:
                text = self.value(entry, Text)
                return tag if text is None else _with(tag, certs={**tag.certs, name: text.content})
            case ["haproxy_files", name]:
                text = self.value(entry, Text)
                return (
                    tag
                    if text is None
                    else _with(tag, haproxy_files={**tag.haproxy_files, name: text.content})
                )
            case _:
                self.broken[entry] = f"config/{entry}: there is no such entry in this version's store layout"
                return tag


def _with(tag: Tag, **changes: object) -> Tag:
    return structs.replace(tag, **changes)
