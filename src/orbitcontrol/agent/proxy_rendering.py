"""A template's rendering with the endpoints of now, and all it was made from.

It rests on endpoints that were listed once for every service that it names (I1: not knowing an endpoint
is not the same as its absence), and leaves out orphans that nobody reaches.
"""

from __future__ import annotations

from msgspec import Struct

from orbitcontrol.agent.proxy_memory import ProxyMemory
from orbitcontrol.agent.proxy_rotation import Known
from orbitcontrol.agent.proxy_servers import Version
from orbitcontrol.codec.haproxy_text import layout
from orbitcontrol.model.configuration import Desired, ProxyConfiguration
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.orphans import serving
from orbitcontrol.planning.proxy import Directories, template_path
from orbitcontrol.planning.render import RenderContext, Rendered, RenderFailed, Views, render
from orbitcontrol.planning.rotation import Place, Rotation, Routes
from orbitcontrol.planning.server_checks import checked_servers
from orbitcontrol.planning.server_ids import numbered
from orbitcontrol.ports import Proxy


class Refused(Struct, frozen=True):
    """HAProxy, or the template engine, did not take it."""

    error: str


class Round(Struct, frozen=True, kw_only=True):
    """One step's inputs, and, filled by it, what it finds wrong and the services that templates ask for.

    ``trouble`` maps a subject to a reason. ``startable``: HAProxy runs, or may be started.
    """

    desired: Desired
    known: Known
    startable: bool
    trouble: dict[str, str]
    asked: set[str]


class Made(Struct, frozen=True, kw_only=True):
    """A rendered template, with all it was made from. ``version`` is its text with servers' numbers."""

    candidate: ProxyConfiguration
    generation: int
    places: Directories
    context: RenderContext
    services: frozenset[str]
    version: Version
    rotation: Rotation
    checked: frozenset[Place]

    @property
    def routes(self) -> dict[str, dict[str, Endpoint]]:
        """The endpoints of the services that it routes to."""
        return {service: self.rotation.routes[service] for service in sorted(self.services)}

    def known_with(self, before: Routes) -> dict[str, dict[str, Endpoint]]:
        """What may be routed to while one configuration takes the place of another."""
        known = {service: dict(entries) for service, entries in before.items()}
        return known | {service: known.get(service, {}) | new for service, new in self.routes.items()}


class Undecided(Struct, frozen=True):
    """It cannot be judged now: endpoints are not listed yet, or HAProxy could not be asked.

    ``prepared`` is what a start of HAProxy, which does not run, would load from the disk.
    """

    prepared: Made | None = None


class Renderer:
    """Renders templates; what did not change since the last time is not made again."""

    def __init__(self, *, proxy: Proxy, memory: ProxyMemory) -> None:
        self._proxy = proxy
        self._memory = memory
        self._views = Views()

    def make(
        self, candidate: ProxyConfiguration, now: Round, disk: Version | None, *, loaded_anew: bool
    ) -> Made | Refused | Undecided:
        """The rendering without unreachable orphans that HAProxy does not look after itself.

        Which those are is read off a rendering with all of them, which mostly is the one wanted.
        """
        rotation, orphans = now.known.rotation, now.known.orphans
        endpoints, checked = serving(rotation), frozenset[Place]()
        places = self._proxy.directories(
            candidate, current=disk.text if disk is not None else None, loaded_anew=loaded_anew
        )
        context = self._context(candidate, now, endpoints, places)
        rendered = self._render(candidate, context, now)
        if isinstance(rendered, Rendered) and rotation.orphans:
            checked = checked_servers(layout(rendered.text), rotation.orphans)
            reached = serving(rotation, orphans, checked=checked)
            if reached != endpoints:
                context = self._context(candidate, now, reached, places)
                rendered = self._render(candidate, context, now)
        if not isinstance(rendered, Rendered):
            return rendered
        return Made(
            candidate=candidate,
            generation=now.desired.generation,
            places=places,
            context=context,
            services=rendered.services,
            version=Version(*numbered(rendered.text, before=disk.layout if disk is not None else None)),
            rotation=rotation,
            checked=checked,
        )

    def _render(
        self, candidate: ProxyConfiguration, context: RenderContext, now: Round
    ) -> Rendered | Refused | Undecided:
        """The rendering, unless it rests on a service whose endpoints were never listed."""
        outcome: Rendered | Refused
        try:
            outcome = render(candidate.template, context)
            services = outcome.services
        except RenderFailed as error:
            services = error.services
            place = template_path(candidate.tag) + (f":{error.line}" if error.line else "")
            outcome = Refused(f"{place}: {error}")
        now.asked.update(services)
        return Undecided() if services - now.known.rotation.routes.keys() else outcome

    def _context(
        self, candidate: ProxyConfiguration, now: Round, endpoints: Routes, places: Directories
    ) -> RenderContext:
        bound = {name: effective.service for name, effective in now.desired.services.items()}
        services = now.desired.known_services | bound
        if candidate == self._memory.state.good:  # it may name a service that is gone by now
            services = self._memory.state.services | services
        return RenderContext(
            machine=now.desired.machine,
            services=services,
            endpoints=endpoints,
            certs_dir=places.certs,
            files_dir=places.files,
            socket=self._proxy.socket,
            views=self._views,
        )
