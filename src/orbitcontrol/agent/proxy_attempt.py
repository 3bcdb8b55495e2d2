"""One template's way into HAProxy: rendered, compared, checked, loaded, remembered.

It is never given to HAProxy before the endpoints of every service that it names were listed once
(I1: not knowing an endpoint is not the same as its absence), nor what ``haproxy -c`` refused (I5).
"""

from __future__ import annotations

import time

from msgspec import Struct

from orbitcontrol.agent.alarm import Alarm
from orbitcontrol.agent.proxy_memory import ProxyMemory
from orbitcontrol.agent.proxy_rotation import Known
from orbitcontrol.agent.refusals import Refusals
from orbitcontrol.agent.trace import Trace
from orbitcontrol.errors import HAProxyError, HAProxyRejected
from orbitcontrol.log import Log
from orbitcontrol.model.configuration import Desired, ProxyConfiguration
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.orphans import serving
from orbitcontrol.planning.proxy import as_named, change, digest, explain, template_path
from orbitcontrol.planning.render import RenderContext, Rendered, RenderFailed, render
from orbitcontrol.planning.rotation import Place, Rotation, Routes
from orbitcontrol.planning.route_changes import changes_of, named_in
from orbitcontrol.planning.server_checks import checked_servers
from orbitcontrol.ports import Proxy

_log = Log(__name__)

_RETRY = 5.0


class Accepted(Struct, frozen=True):
    """HAProxy runs it, and looks after the ``checked`` orphans itself."""

    text: str
    checked: frozenset[Place]


class Refused(Struct, frozen=True):
    """HAProxy, or the template engine, did not take it."""

    error: str


class Undecided(Struct, frozen=True):
    """It cannot be judged now: endpoints are not listed yet, or HAProxy could not be asked."""


Outcome = Accepted | Refused | Undecided


class Round(Struct, frozen=True, kw_only=True):
    """One step's inputs, and, filled by it, what it finds wrong and the services that templates ask for.

    ``trouble`` maps a subject to a reason. ``startable``: HAProxy runs, or may be started.
    """

    desired: Desired
    known: Known
    startable: bool
    trouble: dict[str, str]
    asked: set[str]


class _Made(Struct, frozen=True, kw_only=True):
    """A rendered template, with all it was made from."""

    candidate: ProxyConfiguration
    context: RenderContext
    rendered: Rendered
    rotation: Rotation
    checked: frozenset[Place]

    @property
    def services(self) -> list[str]:
        """The services that it routes to."""
        return sorted(self.rendered.services)

    @property
    def routes(self) -> dict[str, dict[str, Endpoint]]:
        """Their endpoints."""
        return {service: self.rotation.routes[service] for service in self.services}

    def known_with(self, before: Routes) -> dict[str, dict[str, Endpoint]]:
        """What may be routed to while one configuration takes the place of another."""
        known = {service: dict(entries) for service, entries in before.items()}
        return known | {service: known.get(service, {}) | new for service, new in self.routes.items()}


class Attempts:
    """Tries templates on HAProxy, and what it refused not again too soon (``agent.refusals``)."""

    def __init__(self, *, proxy: Proxy, memory: ProxyMemory, alarm: Alarm, trace: Trace) -> None:
        self._proxy = proxy
        self._trace = trace
        self._routed: Routes | None = None
        """What HAProxy was last seen to route to; None before the first attempt."""
        self._memory = memory
        self._alarm = alarm
        self._refusals = Refusals()

    async def attempt(self, candidate: ProxyConfiguration, now: Round) -> Outcome:
        """Renders one template and sees to it that HAProxy runs the result."""
        made = self._make(candidate, now)
        if not isinstance(made, _Made):
            return made
        text = made.rendered.text
        try:
            on_disk = await self._proxy.current()
            if self._routed is None:
                self._routed = named_in(on_disk or "", self._memory.state.endpoints)
            if text == on_disk and not now.startable:
                return Undecided()  # it will be started from this very file
            reason = change(rendered=text, on_disk=on_disk, applied=self._memory.state.applied)
            if reason is None:
                await self._remember_good(made, how="nothing to change")
                return Accepted(text, made.checked)
            return await self._check_and_apply(made, reason)
        except HAProxyError as error:
            now.trouble["haproxy"] = str(error)
            self._alarm.within(_RETRY)
            return Undecided()

    def _make(self, candidate: ProxyConfiguration, now: Round) -> _Made | Refused | Undecided:
        """The rendering without unreachable orphans that HAProxy does not look after itself.

        Which those are is read off a rendering with all of them, which mostly is the one wanted.
        """
        rotation, orphans = now.known.rotation, now.known.orphans
        endpoints, checked = serving(rotation), frozenset[Place]()
        context = self._context(candidate, now, endpoints)
        rendered = self._render(candidate, context, now)
        if isinstance(rendered, Rendered) and rotation.orphans:
            checked = checked_servers(rendered.text, rotation.orphans)
            reached = serving(rotation, orphans, checked=checked)
            if reached != endpoints:
                context = self._context(candidate, now, reached)
                rendered = self._render(candidate, context, now)
        if not isinstance(rendered, Rendered):
            return rendered
        return _Made(
            candidate=candidate, context=context, rendered=rendered, rotation=rotation, checked=checked
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

    def _context(self, candidate: ProxyConfiguration, now: Round, endpoints: Routes) -> RenderContext:
        directories = self._proxy.directories(candidate)
        bound = {name: effective.service for name, effective in now.desired.services.items()}
        services = now.desired.known_services | bound
        if candidate == self._memory.state.good:  # it may name a service that is gone by now
            services = self._memory.state.services | services
        return RenderContext(
            machine=now.desired.machine,
            services=services,
            endpoints=endpoints,
            certs_dir=directories.certs,
            files_dir=directories.files,
            socket=self._proxy.socket,
        )

    async def _check_and_apply(self, made: _Made, reason: str) -> Accepted | Refused:
        """Has HAProxy check the text and load it. Raises HAProxyError when it could not be asked."""
        candidate, text = made.candidate, made.rendered.text
        standing = self._refusals.of(candidate)
        if standing is not None and standing.stands_for(text, now=time.monotonic()):
            self._alarm.within(standing.backoff.ready_at - time.monotonic())
            return Refused(standing.error)
        checked = await self._proxy.check(text, candidate)
        if not checked.accepted:
            lines = render(candidate.template, made.context, with_lines=True).lines
            messages = explain(checked.messages, tag=candidate.tag, file=checked.file, lines=lines)
            return self._refuse(candidate, text, "\n".join(messages), by_reload=False)
        # before the reload: what may be routed to from now on must be known after a crash
        await self._memory.remember(endpoints=made.known_with(self._memory.state.endpoints))
        try:
            await self._proxy.apply(text, candidate)
        except HAProxyRejected as error:
            message = f"{template_path(candidate.tag)}: not loaded: {'; '.join(error.messages)}"
            return self._refuse(candidate, text, message, by_reload=True)
        _log.info("HAProxy loaded a new configuration", reason=reason)
        self._refusals.forget(candidate)
        await self._memory.remember(applied=digest(text))
        await self._remember_good(made, how="reload")
        return Accepted(text, made.checked)

    def _refuse(self, candidate: ProxyConfiguration, text: str, error: str, *, by_reload: bool) -> Refused:
        _log.warning("HAProxy refuses the configuration", tag=candidate.tag, reason=error)
        now = time.monotonic()
        refusal = self._refusals.add(candidate, text, error, by_reload=by_reload, now=now)
        self._alarm.within(refusal.backoff.ready_at - now)
        return Refused(error)

    async def _remember_good(self, made: _Made, *, how: str) -> None:
        served = {service: made.context.endpoints[service] for service in made.services}
        routed = named_in(made.rendered.text, served)
        for one in changes_of(self._routed or {}, routed):
            self._trace.note(service=one.service, endpoint=one.address, step=one.step, id=one.id, reason=how)
        self._routed = routed
        services = {name: as_named(made.context.services[name]) for name in made.services}
        await self._memory.remember(good=made.candidate, services=services, endpoints=made.routes)
