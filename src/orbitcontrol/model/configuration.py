"""The whole configuration as people write it, and the part of it that one machine is to have."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from orbitcontrol.model.service import Binding, GlobalProperties, Service
from orbitcontrol.model.state import Problem


class Text(Struct, frozen=True, kw_only=True, rename="pascal"):
    """A file's content as the store keeps it: templates, certificates, static files."""

    content: str


class Tag(Struct, frozen=True, kw_only=True):
    """Everything bound to one tag. ``certs`` and ``haproxy_files`` map file names to contents."""

    name: str
    services: dict[str, Binding] = {}
    authoritative_names: tuple[str, ...] = ()
    template: str | None = None
    certs: dict[str, str] = {}
    haproxy_files: dict[str, str] = {}


class Configuration(Struct, frozen=True, kw_only=True):
    """A configuration tree, from a directory or from the store."""

    global_properties: GlobalProperties = GlobalProperties()
    services: dict[str, Service] = {}
    tags: dict[str, Tag] = {}


class MachineIdentity(Struct, frozen=True, kw_only=True):
    """What a machine is: the address it is known by, its tags in order, its zone ("" for none)."""

    address: str
    tags: tuple[str, ...] = ()
    zone: str = ""


class EffectiveService(Struct, frozen=True, kw_only=True):
    """A service as one machine is to run it: overrides merged, revision resolved.

    ``service.container`` already names the image with its revision. ``revision`` is the image's
    tag ("" without a container); ``revision_source`` says who set it; ``serial`` is the serial of
    the deployment it came from, 0 for the image's own tag.
    """

    service: Service
    revision: str = ""
    revision_source: Literal["image", "service", "machine"] = "image"
    serial: int = 0

    @property
    def name(self) -> str:
        return self.service.name


class ProxyConfiguration(Struct, frozen=True, kw_only=True):
    """What HAProxy on this machine is to be made from: the one template among the machine's tags."""

    tag: str
    template: str
    certs: dict[str, str] = {}
    haproxy_files: dict[str, str] = {}


class Desired(Struct, frozen=True, kw_only=True):
    """What one machine is to be, from one reading of the store.

    ``services`` are those bound here; ``known_services`` are all of the configuration, which is what
    a template may name. ``held`` names services whose configuration could not be understood: whatever
    runs of them stays exactly as it is. ``proxy_held`` is true when the template could not be
    determined (two tags carry one, a value is undecodable): HAProxy keeps its last good
    configuration. A false ``proxy_held`` with no ``proxy`` means that this machine has no template.
    ``holding`` says why the store is not trusted: then what is missing is started, and nothing that
    runs is replaced or removed.
    """

    epoch: str
    generation: int
    machine: MachineIdentity
    services: dict[str, EffectiveService] = {}
    known_services: dict[str, Service] = {}
    held: frozenset[str] = frozenset()
    proxy: ProxyConfiguration | None = None
    proxy_held: bool = False
    authoritative_names: frozenset[str] = frozenset()
    holding: str = ""
    problems: tuple[Problem, ...] = ()
