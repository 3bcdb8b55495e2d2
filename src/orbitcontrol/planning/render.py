"""``haproxy.tpl`` to a configuration: what a template may name, and the bounds of its work.

A template sees copies: tuples, mappings and small structs that nothing it calls can change, so that the
next line and the next rendering see the same. Only the attributes of endpoints are plain dictionaries,
which the engine reads many times faster; a rendering that has changed one fails, and the copy is dropped.
It sees no file, no other template and no clock: the same inputs give the same text (I8). Undefined names are
errors that say the name and the line. Steps (``FUEL``), the template's size and the output's size
are bounded. The services a rendering asks for are recorded: they are what the load balancer
follows.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from types import MappingProxyType

import minijinja
from msgspec import Struct, field

from orbitcontrol.codec.imageref import tag_of
from orbitcontrol.errors import TemplateError
from orbitcontrol.model.configuration import MachineIdentity
from orbitcontrol.model.service import Service
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.template_lines import mark, unmark

FUEL = 10_000_000
"""Steps of one rendering; 5,000 servers take about 200,000. All of them take a quarter of a second."""

LONGEST_TEMPLATE = 1 << 20
LONGEST_OUTPUT = 16 << 20

_NAME = "haproxy.tpl"


class Views:
    """Endpoints as templates see them; of one that stays the same the view is made once."""

    def __init__(self) -> None:
        self._made: dict[str, dict[str, tuple[Endpoint, EndpointView]]] = {}

    def of(self, service: str, endpoints: Mapping[str, Endpoint]) -> tuple[EndpointView, ...]:
        """Their views, sorted by name."""
        before = self._made.get(service, {})
        made = {
            address: known
            if (known := before.get(address)) is not None and known[0] is endpoint
            else (endpoint, _view(service, address, endpoint))
            for address, endpoint in endpoints.items()
        }
        self._made[service] = made
        return tuple(sorted((view for _, view in made.values()), key=attrgetter("name")))

    def mend(self, services: Iterable[str]) -> bool:
        """Drops these services' views if a template has changed one, and says so."""
        changed = [
            service
            for service in services
            if any(view.attributes != endpoint.attributes for endpoint, view in self._made[service].values())
        ]
        for service in changed:
            del self._made[service]
        return bool(changed)


class RenderContext(Struct, frozen=True, kw_only=True):
    """All that a rendering depends on.

    ``services`` are the services that exist; naming another is an error. ``endpoints`` maps a
    service to ``host:port`` → endpoint; a service it lacks has none. The directories are where
    HAProxy will find the tag's certificates and files, ``socket`` is the runtime socket's path. With the
    same ``views`` as last time, only endpoints that are new cost something.
    """

    machine: MachineIdentity
    services: Mapping[str, Service]
    endpoints: Mapping[str, Mapping[str, Endpoint]]
    certs_dir: str
    files_dir: str
    socket: str
    views: Views = field(default_factory=Views)


class Rendered(Struct, frozen=True, kw_only=True):
    """A configuration made from a template.

    ``services`` are those whose endpoints the template asked for. ``lines`` has the template's
    line (from 1) for each line of ``text``; None where it was not asked for or cannot be told.
    """

    text: str
    services: frozenset[str]
    lines: tuple[int, ...] | None = None


class RenderFailed(TemplateError):
    """A rendering that failed; ``services`` are those it had asked for until then.

    A template may fail only because the endpoints it asked for are not known yet.
    """

    def __init__(self, message: str, *, line: int | None, services: frozenset[str]) -> None:
        super().__init__(message, line=line)
        self.services = services


class EndpointView(Struct, frozen=True, kw_only=True):
    """An endpoint as a template sees it. ``name`` is ``web-10.0.0.5:3500``, ``address`` ``10.0.0.5:3500``."""

    name: str
    host: str
    port: int
    address: str
    revision: str
    zone: str
    machine: str
    attributes: Mapping[str, str]


class ServiceView(Struct, frozen=True, kw_only=True):
    """A service as a template sees it. ``revision`` is "" without a container."""

    name: str
    revision: str
    endpoint_port: int
    instances: int
    attributes: Mapping[str, str]


class MachineView(Struct, frozen=True, kw_only=True):
    """The machine that the configuration is for."""

    address: str
    tags: tuple[str, ...]
    zone: str


class _UnknownService(Exception):
    def __init__(self, name: object) -> None:
        super().__init__(name)
        self.name = name


def render(template: str, context: RenderContext, *, with_lines: bool = False) -> Rendered:
    """The configuration for this context. Raises RenderFailed with the line where it can be named.

    ``with_lines`` renders a second time to learn the lines: ask when there is an error to place.
    """
    scope = _Scope(context)
    try:
        text = _run(template, scope)
    except TemplateError as error:
        raise RenderFailed(str(error), line=error.line, services=frozenset(scope.asked)) from None
    lines = _line_map(template, scope, text) if with_lines else None
    if not text.endswith("\n"):  # HAProxy refuses a last line without its end
        text += "\n"
    return Rendered(text=text, services=frozenset(scope.asked), lines=lines)


def _line_map(template: str, scope: _Scope, text: str) -> tuple[int, ...] | None:
    """The template's line of each line of ``text``; None where the markers would change the text."""
    marked = mark(template)
    if marked is None:
        return None
    try:
        plain, lines = unmark(_run(marked, scope))
    except TemplateError:
        return None
    return lines if plain == text else None


def _run(template: str, scope: _Scope) -> str:
    if len(template) > LONGEST_TEMPLATE:
        raise TemplateError(f"the template is longer than {LONGEST_TEMPLATE} characters")
    environment = minijinja.Environment(
        debug=True,  # only then does an error name the undefined variable; its dump is never printed
        fuel=FUEL,
        undefined_behavior="strict",
        auto_escape_callback=lambda _: None,
        keep_trailing_newline=True,
    )
    try:
        text = environment.render_str(template, _NAME, **scope.names())
    except minijinja.TemplateError as error:
        raise TemplateError(_explained(error), line=error.line) from None
    except _UnknownService as error:
        raise TemplateError(scope.unknown(error.name), line=_line_of(template, error.name)) from None
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise TemplateError(f"{error} (in a call that the template makes)") from None
    finally:
        is_mended = scope.mend()
    if is_mended:
        raise TemplateError("the template changes the attributes of an endpoint")
    if len(text) > LONGEST_OUTPUT:
        raise TemplateError(f"the template makes more than {LONGEST_OUTPUT} characters")
    return text


def _explained(error: minijinja.TemplateError) -> str:
    """One line for people, from the parts of the error that show no values."""
    detail = error.detail or error.kind
    match error.kind:
        case "UndefinedError":
            return f"{detail}; where it may be missing, write `| default(…)` after it"
        case "OutOfFuel":
            return f"the template takes more than {FUEL} steps: is there a loop inside a loop?"
        case "TemplateNotFound":
            return f"{detail}: a template is one file, it cannot include or import others"
        case _:
            return detail


def _line_of(template: str, service: object) -> int | None:
    """The first line that has the name in quotes: errors of our own functions carry no line."""
    quoted = re.search(rf"""(["']){re.escape(str(service))}\1""", template)
    return template.count("\n", 0, quoted.start()) + 1 if quoted else None


class _Scope:
    """What a template can name, and a record of what it asked for."""

    def __init__(self, context: RenderContext) -> None:
        self._context = context
        self._views: dict[str, tuple[EndpointView, ...]] = {}
        self.asked: set[str] = set()

    def names(self) -> dict[str, object]:
        machine = self._context.machine
        functions: dict[str, Callable[..., object]] = {
            "endpoints": self._endpoints,
            "local_endpoints": self._local_endpoints,
            "service": self._service,
        }
        return {
            **functions,
            "machine": MachineView(address=machine.address, tags=machine.tags, zone=machine.zone),
            "certs_dir": self._context.certs_dir,
            "files_dir": self._context.files_dir,
            "socket": self._context.socket,
        }

    def unknown(self, name: object) -> str:
        """The message for a service that does not exist."""
        near = difflib.get_close_matches(str(name), sorted(self._context.services), n=1)
        return f"there is no service {str(name)!r}" + (f"; did you mean {near[0]!r}?" if near else "")

    def mend(self) -> bool:
        """True when the template has changed what it was given: it is made anew the next time."""
        return self._context.views.mend(self._views)

    def _endpoints(self, service: str) -> tuple[EndpointView, ...]:
        self._known(service)
        self.asked.add(service)
        if service not in self._views:
            found = self._context.endpoints.get(service, {})
            self._views[service] = self._context.views.of(service, found)
        return self._views[service]

    def _local_endpoints(self, service: str, strict: bool = False) -> tuple[EndpointView, ...]:  # noqa: FBT001, FBT002 -- called by templates
        every = self._endpoints(service)
        zone = self._context.machine.zone
        local = tuple(view for view in every if zone and view.zone == zone)
        return local if local or strict else every

    def _service(self, name: str) -> ServiceView:
        service = self._known(name)
        return ServiceView(
            name=service.name,
            revision=tag_of(service.image) if service.image else "",
            endpoint_port=service.endpoint_port,
            instances=service.instances,
            attributes=MappingProxyType(dict(service.attributes)),
        )

    def _known(self, name: str) -> Service:
        if name not in self._context.services:
            raise _UnknownService(name)
        return self._context.services[name]


def _view(service: str, address: str, endpoint: Endpoint) -> EndpointView:
    host, _, port = address.rpartition(":")
    return EndpointView(
        name=f"{service}-{address}",
        host=host.strip("[]"),
        port=int(port) if port.isdigit() else 0,
        address=address,
        revision=endpoint.revision,
        zone=endpoint.availability_zone,
        machine=endpoint.machine,
        attributes=dict(endpoint.attributes),
    )
