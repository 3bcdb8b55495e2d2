"""One template's way into HAProxy: rendered, compared, checked, loaded, remembered.

It is rendered by ``agent.proxy_rendering``. Servers alone are changed at runtime (``agent.proxy_servers``);
all else is a reload, together with what changes in the moments before it (``agent.reloads``).

HAProxy is never given what it has refused to read (I5).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

from msgspec import Struct

from orbitcontrol.agent.alarm import Alarm
from orbitcontrol.agent.proxy_memory import ProxyMemory
from orbitcontrol.agent.proxy_registration import Registration
from orbitcontrol.agent.proxy_rendering import Made, Refused, Renderer, Round, Undecided
from orbitcontrol.agent.proxy_servers import NotWritten, ServerKeeper, Version
from orbitcontrol.agent.refusals import Refusals
from orbitcontrol.agent.reloads import Reloads
from orbitcontrol.agent.trace import Trace
from orbitcontrol.codec.haproxy_text import layout
from orbitcontrol.errors import HAProxyError, HAProxyRejected, OrbitError
from orbitcontrol.log import Log
from orbitcontrol.model.configuration import ProxyConfiguration
from orbitcontrol.planning.proxy import (
    as_named,
    difference,
    explain,
    has_admin_socket,
    in_tree,
    loaded,
    needs_reload,
    size_of_change,
    template_path,
)
from orbitcontrol.planning.render import render
from orbitcontrol.planning.rotation import Routes
from orbitcontrol.planning.route_changes import changes_of, named_in
from orbitcontrol.ports import Proxy

_log = Log(__name__)

_RETRY = 5.0


class Accepted(Struct, frozen=True):
    """HAProxy runs it, and the file on disk says so."""

    made: Made


Outcome = Accepted | Refused | Undecided


class Attempts:
    """Tries templates on HAProxy, and what it refused not again too soon (``agent.refusals``).

    ``_unproven`` is a text that was loaded, until HAProxy is seen to have the servers of it. One that
    needs another reload before that would need one for ever.
    """

    def __init__(
        self,
        *,
        proxy: Proxy,
        memory: ProxyMemory,
        servers: ServerKeeper,
        reloads: Reloads,
        registration: Registration,
        alarm: Alarm,
        trace: Trace,
    ) -> None:
        self._proxy = proxy
        self._registration = registration
        self._trace = trace
        self._routed: Routes | None = None
        """What HAProxy was last seen to route to; None before the first attempt."""
        self._memory = memory
        self._servers = servers
        self._reloads = reloads
        self._alarm = alarm
        self._refusals = Refusals()
        self._disk: Version | None = None
        self._exchanged: Mapping[str, str] | None = None
        """The certificates that HAProxy was last seen to use."""
        self._unproven = ""
        self._renderer = Renderer(proxy=proxy, memory=memory)

    def was_refused(self, candidate: ProxyConfiguration) -> bool:
        """True when HAProxy's last word on the template was no."""
        return self._refusals.of(candidate) is not None

    async def attempt(self, candidate: ProxyConfiguration, now: Round) -> Outcome:
        """Renders one template and sees to it that HAProxy runs the result."""
        try:
            disk = await self._on_disk()
            if self._routed is None:
                self._routed = named_in(disk.layout, self._memory.state.endpoints) if disk else {}
            made = self._renderer.make(candidate, now, disk, loaded_anew=False)
            if not isinstance(made, Made):
                return made
            routed = self._memory.state.services if now.startable else ()
            if not self._registration.admits(made.services, made.version.layout, routed=routed):
                return Undecided()
            if disk is not None and not now.startable and made.version.layout.rest == disk.layout.rest:
                return await self._prepare_start(made, disk)
            reason = await self._at_runtime(made, disk, now.trouble)
            if reason is None:
                await self._remember_good(made, how="runtime")
                return Accepted(made)
            made = self._renderer.make(candidate, now, disk, loaded_anew=True)
            return await self._by_reload(made, disk, now, reason) if isinstance(made, Made) else made
        except OrbitError as error:  # HAProxy's, or of the disk that is to remember
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

    async def _at_runtime(self, made: Made, disk: Version | None, trouble: dict[str, str]) -> str | None:
        """Brings HAProxy to the made text without a reload; why only a reload can do it."""
        wanted = made.version
        reason = needs_reload(
            wanted=wanted.layout,
            disk=disk.layout if disk is not None else None,
            applied=self._memory.state.applied,
        )
        if reason is not None or disk is None:
            return reason
        reason = await self._change_servers(made, disk)
        if reason is None:
            self._unproven = ""
            return await self._exchange_certificates(made, disk)
        if wanted.text == self._unproven:
            trouble["haproxy"] = f"reloaded, and still not what its file says: {reason}"
            self._alarm.within(_RETRY)
            return None
        return reason

    async def _prepare_start(self, made: Made, disk: Version) -> Outcome:
        """Has HAProxy, which does not run, started with the made servers: later, by ``ensure``."""
        if made.version.text == disk.text:
            return Undecided(prepared=made)
        refused = await self._check(made)
        if refused is None:
            await self._proxy.replace(made.version.text)
        return refused or Undecided(prepared=made)

    async def _change_servers(self, made: Made, disk: Version) -> str | None:
        """Has HAProxy's servers changed at runtime; why only a reload can do it."""
        wanted = made.version
        if not has_admin_socket(wanted.text):
            changes = difference(disk.layout, wanted.layout)
            return None if wanted.text == disk.text else f"{changes}; there is no runtime socket"
        try:
            reason = await self._servers.converge(
                wanted, disk, draining=_draining(made.routes), save=partial(self._remember_all, made)
            )
        except NotWritten:  # nor could a reload write it
            raise
        except HAProxyError as error:
            if wanted.text == disk.text:
                raise
            return f"{difference(disk.layout, wanted.layout)}; not at runtime: {error}"
        if reason is None:
            self._disk = wanted
        return reason

    async def _exchange_certificates(self, made: Made, disk: Version) -> str | None:
        """Has HAProxy use the certificates of now; why only a reload can do it."""
        certs = made.candidate.certs
        if certs == self._exchanged:
            return None
        if made.places != self._proxy.directories(made.candidate, current=disk.text, loaded_anew=True):
            if not has_admin_socket(made.version.text):
                return "certificates changed; there is no runtime socket"
            try:
                refused = await self._proxy.exchange(made.version.text, made.candidate)
            except HAProxyError as error:
                refused = str(error)
            if refused is not None:
                return f"certificates changed; not at runtime: {refused}"
            _log.info("certificates exchanged at runtime", tag=made.candidate.tag)
        self._exchanged = certs
        return None

    async def _by_reload(
        self, made: Made, disk: Version | None, now: Round, reason: str
    ) -> Accepted | Refused | Undecided:
        """Has HAProxy load the text, together with what changes in a moment."""
        text = made.version.text
        standing = self._refusals.of(made.candidate)
        if standing is not None and standing.stands_for(
            text, generation=made.generation, now=time.monotonic()
        ):
            self._alarm.within(standing.backoff.ready_at - time.monotonic())
            return Refused(standing.error)
        if disk is not None and now.startable and (pause := self._reloads.pause(text)) > 0:
            self._alarm.within(pause)
            return Undecided()
        return await self._check_and_load(made, disk, reason)

    async def _check_and_load(self, made: Made, disk: Version | None, reason: str) -> Accepted | Refused:
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
            return self._refuse(made, message, by_reload=True)
        self._servers.forget()
        self._exchanged = candidate.certs
        self._unproven = text
        self._alarm.within(0)
        self._refusals.forget(candidate)
        await self._memory.remember(applied=loaded(made.version.layout))
        await self._remember_good(made, how="reload")
        return Accepted(made)

    async def _check(self, made: Made) -> Refused | None:
        """What ``haproxy -c`` has against the text."""
        candidate = made.candidate
        checked = await self._proxy.check(made.version.text, candidate)
        if checked.accepted:
            return None
        lines = render(candidate.template, made.context, with_lines=True).lines
        messages = explain(checked.messages, tag=candidate.tag, file=checked.file, lines=lines)
        return self._refuse(made, in_tree("\n".join(messages), candidate.tag, made.places), by_reload=False)

    def _refuse(self, made: Made, error: str, *, by_reload: bool) -> Refused:
        _log.warning("HAProxy refuses the configuration", tag=made.candidate.tag, reason=error)
        now = time.monotonic()
        refusal = self._refusals.add(
            made.candidate,
            made.version.text,
            error,
            generation=made.generation,
            by_reload=by_reload,
            now=now,
        )
        self._alarm.within(refusal.backoff.ready_at - now)
        return Refused(error)

    async def _remember_all(self, made: Made, **more: object) -> None:
        """What may be routed to from now on must be known after a crash, and what was routed to, too."""
        await self._memory.remember(endpoints=made.known_with(self._memory.state.endpoints), **more)

    async def _remember_good(self, made: Made, *, how: str) -> None:
        self._trace_routes(made, how)
        services = {name: as_named(made.context.services[name]) for name in sorted(made.services)}
        await self._memory.remember(good=made.candidate, services=services, endpoints=made.routes)

    def _trace_routes(self, made: Made, how: str) -> None:
        """Notes what became of each endpoint; ``how``: at runtime, or by a reload."""
        before = self._routed or {}
        routed = named_in(made.version.layout, {name: made.context.endpoints[name] for name in made.services})
        for service, entries in made.routes.items():
            for address, endpoint in entries.items():
                if endpoint.state == "draining" and address in before.get(service, {}):
                    routed[service].setdefault(address, endpoint)
        for one in changes_of(before, routed):
            self._trace.note(service=one.service, endpoint=one.address, step=one.step, id=one.id, reason=how)
        self._routed = routed


def _draining(routes: Routes) -> frozenset[str]:
    """Draining endpoints as servers may be called: by name and by address."""
    return frozenset(
        name
        for service, entries in routes.items()
        for address, endpoint in entries.items()
        if endpoint.state == "draining"
        for name in (address, f"{service}-{address}")
    )
