"""The loop that keeps HAProxy routing to the healthy endpoints with the newest good template.

Each step decides which endpoints are to be known (``agent.proxy_rotation``) and tries the templates
worth trying, newest first (``agent.proxy_attempt``). Woken by the configuration, the endpoints, the
machines that are alive, HAProxy's own end, what is found out about orphans, and how the machine's own
services are. What comes while a step is taken is the next one's, so a burst of changes is a few
batches.

A machine whose tags carry no template any more keeps its HAProxy, with the last good template and
current endpoints, and says so; it is not started again when somebody ends it. Taking a load
balancer's traffic away is left to people: an import that forgot a file must not do it.
"""

from __future__ import annotations

import asyncio

from orbitcontrol.agent.acknowledging import Acknowledging
from orbitcontrol.agent.alarm import Alarm
from orbitcontrol.agent.board import Board, Wake
from orbitcontrol.agent.loop import TICK, forever
from orbitcontrol.agent.orphans import EVERY, Connector, OrphanConnects
from orbitcontrol.agent.proxy_attempt import Accepted, Attempts
from orbitcontrol.agent.proxy_memory import ProxyMemory
from orbitcontrol.agent.proxy_registration import Registration, Routing
from orbitcontrol.agent.proxy_rendering import Made, Refused, Round, Undecided
from orbitcontrol.agent.proxy_rotation import EndpointWatch, Rotator
from orbitcontrol.agent.proxy_servers import LOOK_EVERY, ServerKeeper
from orbitcontrol.agent.proxy_store import BalancerStore
from orbitcontrol.agent.proxy_workers import ProxyWorkersLoop
from orbitcontrol.agent.reloads import Reloads
from orbitcontrol.codec.haproxy_text import layout
from orbitcontrol.errors import HAProxyError
from orbitcontrol.log import Log
from orbitcontrol.model.configuration import Desired, ProxyConfiguration
from orbitcontrol.model.state import ProxyVerdict
from orbitcontrol.planning.acknowledging import InForce
from orbitcontrol.planning.proxy import (
    NO_ADMIN_SOCKET,
    Life,
    candidates,
    has_admin_socket,
    loaded,
    template_path,
)
from orbitcontrol.planning.rotation import Place
from orbitcontrol.planning.verdicts import why_template_held
from orbitcontrol.ports import Proxy, StateFiles

_log = Log(__name__)

QUIET = 0.05
LONGEST_DELAY = 0.5
"""Seconds without a further change before a reload, and seconds after which it comes in any case."""


class ProxyLoop:
    """Keeps HAProxy's configuration true. ``watch`` is run by whoever made it.

    ``lease_ttl`` is what a lease lasts, ``connect_every`` the pause between two rounds of connects to
    orphans, ``look_every`` the one between two looks at HAProxy's servers; ``quiet`` and ``longest``
    are how long a reload waits for more changes. All are seconds.
    """

    def __init__(
        self,
        *,
        board: Board,
        at: BalancerStore,
        proxy: Proxy,
        watch: EndpointWatch,
        connector: Connector,
        files: StateFiles,
        lease_ttl: float,
        tick: float = TICK,
        connect_every: float = EVERY,
        look_every: float = LOOK_EVERY,
        quiet: float = QUIET,
        longest: float = LONGEST_DELAY,
    ) -> None:
        self._board = board
        self._proxy = proxy
        self._watch = watch
        self._memory = ProxyMemory(files)
        self._tick = tick
        self._wake = Wake()
        self._alarm = Alarm(self._wake, "retry")
        self._connects = OrphanConnects(connector=connector, problems=board.problems, every=connect_every)
        self._rotator = Rotator(
            board=board,
            watch=watch,
            memory=self._memory,
            connects=self._connects,
            alarm=self._alarm,
            ttl=lease_ttl,
        )
        self._servers = ServerKeeper(proxy=proxy, alarm=self._alarm, look_every=look_every)
        self._reloads = Reloads(board=board, files=files, quiet=quiet, longest=longest)
        self._registration = Registration(
            board=board, at=at, files=files, watch=watch, workers=proxy.workers, tick=tick
        )
        self._acknowledging = Acknowledging(
            board=board, at=at, proxy=proxy, watch=watch, registration=self._registration, tick=tick
        )
        self._attempts = Attempts(
            proxy=proxy,
            memory=self._memory,
            servers=self._servers,
            reloads=self._reloads,
            registration=self._registration,
            alarm=self._alarm,
            trace=board.trace,
        )
        self._workers = ProxyWorkersLoop(board=board, workers=proxy.workers)
        self._checked: frozenset[Place] = frozenset()
        self._is_down = False
        """HAProxy is ours to run, and certainly does not."""
        self._absence_logged = False

    async def run(self) -> None:
        """Never returns."""
        board = self._board
        board.history.went_back.subscribe(self._wake)
        board.runs.subscribe(self._wake)
        board.verdicts.subscribe(self._wake)
        for cell in (board.desired, board.writes, self._watch.endpoints, self._watch.alive):
            cell.subscribe(self._wake)
        self._connects.reached.subscribe(self._wake)
        self._registration.registered.subscribe(self._wake)
        self._proxy.subscribe(self._wake.ring)
        await self._memory.load()
        await self._reloads.load()
        await self._registration.load(self._memory.state.services)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._connects.run(), name="orphans")
                group.create_task(self._workers.run(), name="workers")
                group.create_task(self._registration.run(), name="registration")
                group.create_task(self._acknowledging.run(), name="acknowledging")
                await forever("proxy", self._step, wake=self._wake, problems=board.problems, tick=self._tick)
        finally:
            self._alarm.cancel()
            await self._proxy.close()

    async def _step(self, reasons: frozenset[str]) -> None:
        if reasons == {self._board.writes.name} and not self._board.orphaned.value:
            return  # only the clocks of orphans go on by this machine's writes
        trouble: dict[str, str] = {}
        reloads = self._board.reloads.value
        running = await self._keep_running(trouble)
        desired = self._board.desired.value
        if desired is not None:
            now = Round(
                desired=desired,
                known=await self._rotator.rotate(trouble),
                startable=running is not None,
                trouble=trouble,
                asked=set(self._memory.state.services),
            )
            if _has_template(desired) or running == "running":
                await self._converge(now)
            self._report_absence(now)
            self._look_after_orphans(now)
            self._settle(now)
        if self._board.reloads.value is not reloads:
            self._workers.look()
        self._board.problems.report("proxy", trouble)

    async def _keep_running(self, trouble: dict[str, str]) -> Life | None:
        """A managed HAProxy runs what is on disk, whatever is known of the store. None: it cannot."""
        desired = self._board.desired.value
        self._is_down = False
        try:
            running = await self._proxy.ensure(start=False)
            self._is_down = running == "down"
            if self._is_down and (desired is None or _has_template(desired)):
                running = await self._started()
        except HAProxyError as error:
            trouble["haproxy"] = str(error)
            return None
        self._is_down = running == "down"
        return running

    async def _started(self) -> Life:
        """Has HAProxy started from the file on disk, if there is one, registered for what it routes to."""
        text = await self._proxy.current()
        if text is None:
            return "down"
        found = layout(text)
        await self._registration.ahead(self._memory.state.services.keys(), found)
        running = await self._proxy.ensure(start=True)
        if running == "started":
            self._servers.forget()
            await self._memory.remember(applied=loaded(found))
        return running

    async def _converge(self, now: Round) -> None:
        """Gives HAProxy the best template that it takes, with the endpoints of now."""
        wanted = None if now.desired.proxy_held else now.desired.proxy
        taken, is_settled = None, True
        for candidate in self._order(wanted):
            outcome = await self._attempts.attempt(candidate, now)
            if candidate == wanted and not isinstance(outcome, Undecided):
                self._judge(now, outcome)
            elif isinstance(outcome, Refused):
                now.trouble["haproxy"] = f"the last good template is refused: {outcome.error}"
            else:
                is_settled = is_settled and candidate != wanted
            taken = self._taken(outcome) or taken
            if isinstance(outcome, Accepted):
                self._note_accepted(outcome.made, now)
                if candidate == wanted or wanted is None:
                    break
        self._reloads.settle()
        if self._servers.corrected:
            now.trouble.setdefault("haproxy", self._servers.corrected)
        if now.desired.proxy_held:
            self._judge(now, Refused(why_template_held(now.desired)))
        self._board.balances.set(frozenset(self._memory.state.services))
        self._watch.follow(self._registration.held | now.asked)
        if taken is not None:
            self._tell_in_force(taken, settled=is_settled)

    def _note_accepted(self, made: Made, now: Round) -> None:
        self._checked = made.checked
        if not has_admin_socket(made.version.text):
            advice = f"{template_path(made.candidate.tag)}: {NO_ADMIN_SOCKET}"
            now.trouble.setdefault("template", advice)

    def _taken(self, outcome: Accepted | Refused | Undecided) -> Made | None:
        """What is on the disk, and in HAProxy if it runs; None when that is not certain."""
        match outcome:
            case Accepted(made=made):
                return made
            case Undecided(prepared=made) if self._is_down:
                return made
            case _:
                return None

    def _tell_in_force(self, made: Made, *, settled: bool) -> None:
        """Has those told who wait for what HAProxy has just taken."""
        self._acknowledging.in_force.set(
            InForce(
                text=made.version.text,
                layout=made.version.layout,
                routes=made.rotation.routes,
                unfit=made.rotation.unfit,
                leaving=self._servers.leaving,
                settled=settled,
                runs=not self._is_down,
            )
        )

    def _settle(self, now: Round) -> None:
        """Has this load balancer registered for what it routes to from now on, and for nothing else."""
        if self._is_down and not _has_template(now.desired):
            self._registration.settle(Routing(certain=True, over=True))
            return
        routed = frozenset(self._memory.state.services)
        self._registration.settle(
            Routing(
                routed=routed,
                asked=frozenset(now.asked),
                leaving=frozenset(self._servers.leaving),
                certain=self._acknowledging.in_force.value is not None,
            )
        )
        missing = now.asked - self._registration.registered.value - routed
        if missing and (failure := self._registration.failure):
            now.trouble["registration"] = (
                f"services {', '.join(sorted(missing))} get no servers before this load balancer is "
                f"registered for them: {failure}"
            )

    def _order(self, wanted: ProxyConfiguration | None) -> tuple[ProxyConfiguration, ...]:
        """The templates to try. One that was refused is tried after the good one has today's servers."""
        good = self._memory.state.good
        order = candidates(wanted, good)
        if wanted is not None and wanted != good and self._attempts.was_refused(wanted):
            return order[::-1]
        return order

    def _judge(self, now: Round, outcome: Accepted | Refused) -> None:
        error = outcome.error if isinstance(outcome, Refused) else ""
        if error:
            good = self._memory.state.good
            fallback = "the last good one goes on" if good else "there is no earlier one to go on with"
            now.trouble["template"] = f"{error}; {fallback}"
        desired = now.desired
        self._board.proxy_verdict.set(
            ProxyVerdict(epoch=desired.epoch, generation=desired.generation, accepted=not error, error=error)
        )

    def _report_absence(self, now: Round) -> None:
        absent = not _has_template(now.desired)
        if absent and not self._absence_logged:
            _log.info("no tag of this machine carries haproxy.tpl", tags=",".join(now.desired.machine.tags))
        self._absence_logged = absent
        if not absent:
            return
        self._board.proxy_verdict.set(None)
        if (good := self._memory.state.good) is not None:
            now.trouble["template"] = (
                "no tag of this machine carries haproxy.tpl any more; HAProxy goes on with the last template "
                f"of tag {good.tag!r}. To end it, stop HAProxy: it will not be started again"
            )

    def _look_after_orphans(self, now: Round) -> None:
        """Has those connected to that HAProxy does not look after itself, and tells of all."""
        unchecked = [
            orphan
            for orphan in now.known.orphans
            if orphan.place in now.known.rotation.orphans and orphan.place not in self._checked
        ]
        self._connects.watch({orphan.place: orphan.reach for orphan in unchecked})
        now.trouble.update(now.known.troubles(self._checked))


def _has_template(desired: Desired) -> bool:
    return desired.proxy is not None or desired.proxy_held
