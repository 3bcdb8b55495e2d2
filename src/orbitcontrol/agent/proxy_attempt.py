"""One template's way into HAProxy: rendered, compared, checked, loaded, remembered.

Servers alone are changed at runtime (``agent.proxy_servers``); all else is a reload, together with
what changes in the moments before it (``agent.reloads``).

It is never given to HAProxy before the endpoints of every service that it names were listed once
(I1: not knowing an endpoint is not the same as its absence), nor what ``haproxy -c`` refused (I5).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

from msgspec import Struct

from orbitcontrol.agent.alarm import Alarm
from orbitcontrol.agent.proxy_memory import ProxyMemory
from orbitcontrol.agent.proxy_rotation import Known
from orbitcontrol.agent.proxy_servers import NotWritten, ServerKeeper, Version
from orbitcontrol.agent.refusals import Refusals
from orbitcontrol.agent.reloads import Reloads
from orbitcontrol.codec.haproxy_text import layout
from orbitcontrol.errors import HAProxyError, HAProxyRejected
from orbitcontrol.log import Log
from orbitcontrol.model.configuration import Desired, ProxyConfiguration
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.orphans import serving
from orbitcontrol.planning.proxy import (
    as_named,
    difference,
    explain,
    has_admin_socket,
    loaded,
    needs_reload,
    size_of_change,
    template_path,
)
from orbitcontrol.planning.render import RenderContext, Rendered, RenderFailed, render
from orbitcontrol.planning.rotation import Place, Rotation, Routes
from orbitcontrol.planning.server_checks import checked_servers
from orbitcontrol.planning.server_ids import numbered
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
    """A rendered template, with all it was made from. ``version`` is its text with servers' numbers."""

    candidate: ProxyConfiguration
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


class Attempts:
    """Tries templates on HAProxy, and what it refused not again too soon (``agent.refusals``).

    ``_unproven`` is a text that was loaded, until HAProxy is seen to have the servers of it. One that
    needs another reload before that would need one for ever.
    """

    def __init__(
        self, *, proxy: Proxy, memory: ProxyMemory, servers: ServerKeeper, reloads: Reloads, alarm: Alarm
    ) -> None:
        self._proxy = proxy
        self._memory = memory
        self._servers = servers
        self._reloads = reloads
        self._alarm = alarm
        self._refusals = Refusals()
        self._disk: Version | None = None
        self._unproven = ""

    def was_refused(self, candidate: ProxyConfiguration) -> bool:
        """True when HAProxy's last word on the template was no."""
        return self._refusals.of(candidate) is not None

    async def attempt(self, candidate: ProxyConfiguration, now: Round) -> Outcome:
        """Renders one template and sees to it that HAProxy runs the result."""
        try:
            disk = await self._on_disk()
            made = self._make(candidate, now, disk)
            return await self._converge(made, disk, now) if isinstance(made, _Made) else made
        except HAProxyError as error:
            now.trouble["haproxy"] = str(error)
            self._alarm.within(_RETRY)
            return Undecided()

    async def _on_disk(self) -> Version | None:
        text = await self._proxy.current()
        if text is None:
            return None
        if self._disk is None or self._disk.text != text:
            self._disk = Version(text, layout(text))
        return self._disk

    def _make(
        self, candidate: ProxyConfiguration, now: Round, disk: Version | None
    ) -> _Made | Refused | Undecided:
        """The rendering without unreachable orphans that HAProxy does not look after itself.

        Which those are is read off a rendering with all of them, which mostly is the one wanted.
        """
        rotation, orphans = now.known.rotation, now.known.orphans
        endpoints, checked = serving(rotation), frozenset[Place]()
        context = self._context(candidate, now, endpoints)
        rendered = self._render(candidate, context, now)
        if isinstance(rendered, Rendered) and rotation.orphans:
            checked = checked_servers(layout(rendered.text), rotation.orphans)
            reached = serving(rotation, orphans, checked=checked)
            if reached != endpoints:
                context = self._context(candidate, now, reached)
                rendered = self._render(candidate, context, now)
        if not isinstance(rendered, Rendered):
            return rendered
        return _Made(
            candidate=candidate,
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

    async def _converge(self, made: _Made, disk: Version | None, now: Round) -> Outcome:
        """Brings HAProxy to the made text: its servers at runtime, anything else by a reload."""
        wanted = made.version
        if disk is not None and wanted.text == disk.text and not now.startable:
            return Undecided()  # it will be started from this very file
        applied = self._memory.state.applied
        reason = needs_reload(wanted=wanted.layout, disk=disk.layout if disk else None, applied=applied)
        if reason is None and disk is not None:
            if not now.startable:
                return await self._prepare_start(made)
            saved = asyncio.create_task(self._remember_all(made))
            try:
                reason = await self._change_servers(made, disk, saved)
            finally:
                await saved
            if reason is None:
                self._unproven = ""
            elif wanted.text == self._unproven:
                now.trouble["haproxy"] = f"reloaded, and still not what its file says: {reason}"
                self._alarm.within(_RETRY)
                reason = None
        if reason is None:
            await self._remember_good(made)
            return Accepted(wanted.text, made.checked)
        standing = self._refusals.of(made.candidate)
        if standing is not None and standing.stands_for(wanted.text, now=time.monotonic()):
            self._alarm.within(standing.backoff.ready_at - time.monotonic())
            return Refused(standing.error)
        if disk is not None and now.startable and (pause := self._reloads.pause(wanted.text)) > 0:
            self._alarm.within(pause)
            return Undecided()
        return await self._check_and_load(made, disk, reason)

    async def _prepare_start(self, made: _Made) -> Outcome:
        """Has HAProxy, which does not run, started with the made servers: later, by ``ensure``."""
        refused = await self._check(made)
        if refused is None:
            await self._proxy.replace(made.version.text)
        return refused or Undecided()

    async def _change_servers(self, made: _Made, disk: Version, saved: Awaitable[None]) -> str | None:
        """Has HAProxy's servers changed at runtime; why only a reload can do it."""
        wanted = made.version
        if not has_admin_socket(wanted.text):
            changes = difference(disk.layout, wanted.layout)
            return None if wanted.text == disk.text else f"{changes}; there is no runtime socket"
        try:
            reason = await self._servers.converge(wanted, disk, draining=_draining(made.routes), saved=saved)
        except NotWritten:  # nor could a reload write it
            raise
        except HAProxyError as error:
            if wanted.text == disk.text:
                raise
            return f"{difference(disk.layout, wanted.layout)}; not at runtime: {error}"
        if reason is None:
            self._disk = wanted
        return reason

    async def _check_and_load(self, made: _Made, disk: Version | None, reason: str) -> Accepted | Refused:
        """Has HAProxy check the text and load it. Raises HAProxyError when it could not be asked."""
        if (refused := await self._check(made)) is not None:
            return refused
        candidate, text = made.candidate, made.version.text
        await self._remember_all(made, applied="")
        size = size_of_change(disk.layout if disk else None, made.version.layout)
        try:
            async with self._reloads.recorded(reason, size=size):
                await self._proxy.apply(text, candidate)
        except HAProxyRejected as error:
            await self._memory.remember(applied=loaded(disk.layout) if disk else "")
            message = f"{template_path(candidate.tag)}: not loaded: {'; '.join(error.messages)}"
            return self._refuse(candidate, text, message, by_reload=True)
        self._servers.forget()
        self._unproven = text
        self._alarm.within(0)
        self._refusals.forget(candidate)
        await self._memory.remember(applied=loaded(made.version.layout))
        await self._remember_good(made)
        return Accepted(text, made.checked)

    async def _check(self, made: _Made) -> Refused | None:
        """What ``haproxy -c`` has against the text."""
        candidate, text = made.candidate, made.version.text
        checked = await self._proxy.check(text, candidate)
        if checked.accepted:
            return None
        lines = render(candidate.template, made.context, with_lines=True).lines
        messages = explain(checked.messages, tag=candidate.tag, file=checked.file, lines=lines)
        return self._refuse(candidate, text, "\n".join(messages), by_reload=False)

    def _refuse(self, candidate: ProxyConfiguration, text: str, error: str, *, by_reload: bool) -> Refused:
        _log.warning("HAProxy refuses the configuration", tag=candidate.tag, reason=error)
        now = time.monotonic()
        refusal = self._refusals.add(candidate, text, error, by_reload=by_reload, now=now)
        self._alarm.within(refusal.backoff.ready_at - now)
        return Refused(error)

    async def _remember_all(self, made: _Made, **more: object) -> None:
        """What may be routed to from now on must be known after a crash, and what was routed to, too."""
        await self._memory.remember(endpoints=made.known_with(self._memory.state.endpoints), **more)

    async def _remember_good(self, made: _Made) -> None:
        services = {name: as_named(made.context.services[name]) for name in sorted(made.services)}
        await self._memory.remember(good=made.candidate, services=services, endpoints=made.routes)


def _draining(routes: Routes) -> frozenset[str]:
    """Draining endpoints as servers may be called: by name and by address."""
    return frozenset(
        name
        for service, entries in routes.items()
        for address, endpoint in entries.items()
        if endpoint.state == "draining"
        for name in (address, f"{service}-{address}")
    )
