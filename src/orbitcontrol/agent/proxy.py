"""The loop that keeps HAProxy routing to the healthy endpoints with the newest good template.

Each step renders the templates worth trying, newest first, compares the text with the file on
disk, lets HAProxy check it, and has it applied. Woken by the configuration, the endpoints, the
machines that are alive and HAProxy's own end; changes that come together are one reload.

What it never does: render before the endpoints of every service that a template names were listed
once (I1: not knowing an endpoint is not the same as its absence); give HAProxy what ``haproxy -c``
refused (I5); call an absence a withdrawal without one reading that shows it (``planning.rotation``).

A machine whose tags carry no template any more keeps its HAProxy, with the last good template and
current endpoints, and says so; it is not started again when somebody ends it. Taking a load
balancer's traffic away is left to people: an import that forgot a file must not do it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct, structs

from orbitcontrol.agent.board import Board, Cell, Wake
from orbitcontrol.agent.follower import Sight
from orbitcontrol.agent.loop import TICK, forever
from orbitcontrol.agent.refusals import Refusals
from orbitcontrol.agent.remembered import Remembered
from orbitcontrol.errors import HAProxyError, HAProxyRejected, StoreError
from orbitcontrol.log import Log
from orbitcontrol.model.configuration import Desired, ProxyConfiguration
from orbitcontrol.model.state import Alive, Endpoint, ProxyVerdict
from orbitcontrol.planning.proxy import (
    NO_ADMIN_SOCKET,
    ProxyState,
    Running,
    as_named,
    candidates,
    change,
    digest,
    explain,
    has_admin_socket,
    template_path,
)
from orbitcontrol.planning.render import RenderContext, Rendered, RenderFailed, render
from orbitcontrol.planning.rotation import Published, Rotation, Routes, rotate, serving
from orbitcontrol.ports import Proxy, StateFiles

_log = Log(__name__)

QUIET = 0.05
"""Seconds without a further change before the loop acts on one."""

LONGEST_DELAY = 0.5
"""Seconds after which it acts on changes that never pause."""

_RETRY = 5.0
_STATE = "haproxy.json"
_HELD = "which template this machine is to have cannot be told from its configuration"


class EndpointWatch(Protocol):
    """Where endpoints come from; ``agent.follower.EndpointFollower`` in the daemon."""

    endpoints: Cell[Published]
    alive: Cell[Mapping[str, Alive] | None]

    def follow(self, services: frozenset[str]) -> None:
        """Replaces the set of services whose endpoints are wanted."""

    async def read(self, services: frozenset[str]) -> Sight:
        """Endpoints and ``alive`` records at one revision. Raises StoreError."""


class _Accepted(Struct, frozen=True):
    """HAProxy runs it."""

    text: str


class _Refused(Struct, frozen=True):
    """HAProxy, or the template engine, did not take it."""

    error: str


class _Undecided(Struct, frozen=True):
    """It cannot be judged now: endpoints are not listed yet, or HAProxy could not be asked."""


class _Round(Struct, frozen=True, kw_only=True):
    """One step's inputs, and, filled by it, what it finds wrong: subject → reason."""

    desired: Desired
    rotation: Rotation
    startable: bool
    trouble: dict[str, str]


class _Made(Struct, frozen=True, kw_only=True):
    """A rendered template, with all it was made from."""

    candidate: ProxyConfiguration
    context: RenderContext
    rendered: Rendered
    rotation: Rotation

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


class ProxyLoop:
    """Keeps HAProxy's configuration true. ``watch`` is run by whoever made it."""

    def __init__(
        self,
        *,
        board: Board,
        proxy: Proxy,
        watch: EndpointWatch,
        files: StateFiles,
        tick: float = TICK,
    ) -> None:
        self._board = board
        self._proxy = proxy
        self._watch = watch
        self._memory = Remembered(files, _STATE, ProxyState, ProxyState())
        self._tick = tick
        self._wake = Wake()
        self._state = ProxyState()
        self._refusals = Refusals()
        self._asked: set[str] = set()
        self._absence_logged = False
        self._retry: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Never returns."""
        for cell in (self._board.desired, self._watch.endpoints, self._watch.alive):
            cell.subscribe(self._wake)
        self._proxy.subscribe(self._wake.ring)
        self._state = await asyncio.to_thread(self._memory.load)
        try:
            await forever(
                "proxy", self._step, wake=self._wake, problems=self._board.problems, tick=self._tick
            )
        finally:
            if self._retry is not None:
                self._retry.cancel()
            await self._proxy.close()

    async def _step(self, reasons: frozenset[str]) -> None:
        trouble: dict[str, str] = {}
        running = await self._keep_running(trouble)
        if "start" not in reasons:
            await self._settle()
        desired = self._board.desired.value
        if desired is not None:
            rotation = await self._rotation(trouble)
            now = _Round(desired=desired, rotation=rotation, startable=running is not None, trouble=trouble)
            if _has_template(desired) or running == "running":
                await self._converge(now)
            self._report_absence(now)
        self._board.problems.report("proxy", trouble)

    async def _settle(self) -> None:
        """Waits until changes pause for ``QUIET``, at most ``LONGEST_DELAY``."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + LONGEST_DELAY
        while (left := deadline - clock()) > 0:
            if await self._wake.wait(min(QUIET, left)) == {"tick"}:
                return

    async def _keep_running(self, trouble: dict[str, str]) -> Running | None:
        """A managed HAProxy runs what is on disk, whatever is known of the store. None: it cannot."""
        desired = self._board.desired.value
        try:
            running = await self._proxy.ensure(start=desired is None or _has_template(desired))
        except HAProxyError as error:
            trouble["haproxy"] = str(error)
            return None
        if running == "started" and (text := await self._proxy.current()) is not None:
            await self._remember(applied=digest(text))
        return running

    async def _converge(self, now: _Round) -> None:
        """Gives HAProxy the best template that it takes, with the endpoints of now."""
        wanted = None if now.desired.proxy_held else now.desired.proxy
        self._asked = set(self._state.services)
        for candidate in candidates(wanted, self._state.good):
            outcome = await self._attempt(candidate, now)
            if candidate == wanted and not isinstance(outcome, _Undecided):
                self._judge(now, outcome)
            elif isinstance(outcome, _Refused):
                now.trouble["haproxy"] = f"the last good template is refused: {outcome.error}"
            if isinstance(outcome, _Accepted):
                if not has_admin_socket(outcome.text):
                    advice = f"{template_path(candidate.tag)}: {NO_ADMIN_SOCKET}"
                    now.trouble.setdefault("template", advice)
                break
        if now.desired.proxy_held:
            self._judge(now, _Refused(_HELD))
        self._watch.follow(frozenset(self._asked))

    def _judge(self, now: _Round, outcome: _Accepted | _Refused) -> None:
        error = outcome.error if isinstance(outcome, _Refused) else ""
        if error:
            fallback = (
                "the last good one goes on" if self._state.good else "there is no earlier one to go on with"
            )
            now.trouble["template"] = f"{error}; {fallback}"
        self._board.proxy_verdict.set(
            ProxyVerdict(generation=now.desired.generation, accepted=not error, error=error)
        )

    def _report_absence(self, now: _Round) -> None:
        absent = not _has_template(now.desired)
        if absent and not self._absence_logged:
            _log.info("no tag of this machine carries haproxy.tpl", tags=",".join(now.desired.machine.tags))
        self._absence_logged = absent
        if not absent:
            return
        self._board.proxy_verdict.set(None)
        if self._state.good is not None:
            now.trouble["template"] = (
                "no tag of this machine carries haproxy.tpl any more; HAProxy goes on with the last template "
                f"of tag {self._state.good.tag!r}. To end it, stop HAProxy: it will not be started again"
            )

    async def _rotation(self, trouble: dict[str, str]) -> Rotation:
        """Which endpoints are routed to; every withdrawal is confirmed by one reading of the store."""
        published, known = self._watch.endpoints.value, self._state.endpoints
        rotation = rotate(known=known, published=published, alive=self._watch.alive.value or {})
        if rotation.withdrawn:
            services = frozenset(place.service for place in rotation.withdrawn)
            try:
                sight = await self._watch.read(services)
            except StoreError as error:
                _log.warning("withdrawals not confirmed, endpoints stay", reason=error)
                self._try_again(_RETRY)
                rotation = rotate(known=known, published=published, alive={})
            else:
                rest = {name: entries for name, entries in published.items() if name not in services}
                held = rotate(known=known, published=rest, alive={})
                seen = rotate(known=known, published=sight.endpoints, alive=sight.alive)
                rotation = _joined(held, seen)
        for place in rotation.unreadable:
            trouble[f"endpoint {place.service} {place.address}"] = (
                "its value in the store cannot be read; it stays as it was last known"
            )
        for place in rotation.orphans:
            trouble[f"endpoint {place.service} {place.address}"] = (
                "its machine is gone without withdrawing it; it stays in rotation"
            )
        return rotation

    async def _attempt(self, candidate: ProxyConfiguration, now: _Round) -> _Accepted | _Refused | _Undecided:
        """Renders one template and sees to it that HAProxy runs the result."""
        context = self._context(candidate, now)
        rendered = self._render(candidate, context, listed=frozenset(now.rotation.routes))
        if not isinstance(rendered, Rendered):
            return rendered
        made = _Made(candidate=candidate, context=context, rendered=rendered, rotation=now.rotation)
        try:
            on_disk = await self._proxy.current()
            reason = change(rendered=rendered.text, on_disk=on_disk, applied=self._state.applied)
            if reason is None:
                await self._remember_good(made)
                return _Accepted(rendered.text)
            if rendered.text == on_disk and not now.startable:
                return _Undecided()  # it will be started from this very file
            return await self._check_and_apply(made, reason)
        except HAProxyError as error:
            now.trouble["haproxy"] = str(error)
            self._try_again(_RETRY)
            return _Undecided()

    def _render(
        self, candidate: ProxyConfiguration, context: RenderContext, *, listed: frozenset[str]
    ) -> Rendered | _Refused | _Undecided:
        """The rendering, unless it rests on a service whose endpoints were never listed."""
        outcome: Rendered | _Refused
        try:
            outcome = render(candidate.template, context)
            services = outcome.services
        except RenderFailed as error:
            services = error.services
            place = template_path(candidate.tag) + (f":{error.line}" if error.line else "")
            outcome = _Refused(f"{place}: {error}")
        self._asked |= services
        return _Undecided() if services - listed else outcome

    def _context(self, candidate: ProxyConfiguration, now: _Round) -> RenderContext:
        directories = self._proxy.directories(candidate)
        bound = {name: effective.service for name, effective in now.desired.services.items()}
        services = now.desired.known_services | bound
        if candidate == self._state.good:  # it may name a service that is gone by now
            services = self._state.services | services
        return RenderContext(
            machine=now.desired.machine,
            services=services,
            endpoints=serving(now.rotation.routes),
            certs_dir=directories.certs,
            files_dir=directories.files,
            socket=self._proxy.socket,
        )

    async def _check_and_apply(self, made: _Made, reason: str) -> _Accepted | _Refused:
        """Has HAProxy check the text and load it. Raises HAProxyError when it could not be asked."""
        candidate, text = made.candidate, made.rendered.text
        standing = self._refusals.of(candidate)
        if standing is not None and standing.stands_for(text, now=time.monotonic()):
            self._try_again(standing.backoff.ready_at - time.monotonic())
            return _Refused(standing.error)
        checked = await self._proxy.check(text, candidate)
        if not checked.accepted:
            lines = render(candidate.template, made.context, with_lines=True).lines
            messages = explain(checked.messages, tag=candidate.tag, file=checked.file, lines=lines)
            return self._refuse(candidate, text, "\n".join(messages), by_reload=False)
        # before the reload: what may be routed to from now on must be known after a crash
        await self._remember(endpoints=made.known_with(self._state.endpoints))
        try:
            await self._proxy.apply(text, candidate)
        except HAProxyRejected as error:
            message = f"{template_path(candidate.tag)}: not loaded: {'; '.join(error.messages)}"
            return self._refuse(candidate, text, message, by_reload=True)
        _log.info("HAProxy loaded a new configuration", reason=reason)
        self._refusals.forget(candidate)
        await self._remember(applied=digest(text))
        await self._remember_good(made)
        return _Accepted(text)

    def _refuse(self, candidate: ProxyConfiguration, text: str, error: str, *, by_reload: bool) -> _Refused:
        _log.warning("HAProxy refuses the configuration", tag=candidate.tag, reason=error)
        now = time.monotonic()
        refusal = self._refusals.add(candidate, text, error, by_reload=by_reload, now=now)
        self._try_again(refusal.backoff.ready_at - now)
        return _Refused(error)

    def _try_again(self, seconds: float) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = asyncio.get_running_loop().call_later(seconds, self._wake.ring, "retry")

    async def _remember_good(self, made: _Made) -> None:
        services = {name: as_named(made.context.services[name]) for name in made.services}
        await self._remember(good=made.candidate, services=services, endpoints=made.routes)

    async def _remember(self, **changes: object) -> None:
        """Saves the state when it differs; on disk before anything relies on it."""
        state = structs.replace(self._state, **changes)
        if state != self._state:
            await asyncio.to_thread(self._memory.save, state)
            self._state = state


def _has_template(desired: Desired) -> bool:
    return desired.proxy is not None or desired.proxy_held


def _joined(one: Rotation, other: Rotation) -> Rotation:
    """Two rotations of different services as one."""
    return Rotation(
        routes=one.routes | other.routes,
        orphans=one.orphans | other.orphans,
        withdrawn=one.withdrawn | other.withdrawn,
        replaced=one.replaced | other.replaced,
        unreadable=one.unreadable | other.unreadable,
    )
