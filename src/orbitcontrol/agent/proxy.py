"""The loop that keeps HAProxy routing to the healthy endpoints with the newest good template.

Each step decides which endpoints are to be known (``agent.proxy_rotation``) and tries the templates
worth trying, newest first (``agent.proxy_attempt``). Woken by the configuration, the endpoints, the
machines that are alive, HAProxy's own end, and what is found out about orphans; changes that come
together are one reload.

A machine whose tags carry no template any more keeps its HAProxy, with the last good template and
current endpoints, and says so; it is not started again when somebody ends it. Taking a load
balancer's traffic away is left to people: an import that forgot a file must not do it.
"""

from __future__ import annotations

import asyncio

from orbitcontrol.agent.alarm import Alarm
from orbitcontrol.agent.board import Board, Wake
from orbitcontrol.agent.loop import TICK, forever
from orbitcontrol.agent.orphans import EVERY, Connector, OrphanConnects
from orbitcontrol.agent.proxy_attempt import Accepted, Attempts, Refused, Round, Undecided
from orbitcontrol.agent.proxy_memory import ProxyMemory
from orbitcontrol.agent.proxy_rotation import EndpointWatch, Rotator
from orbitcontrol.errors import HAProxyError
from orbitcontrol.log import Log
from orbitcontrol.model.configuration import Desired
from orbitcontrol.model.state import ProxyVerdict
from orbitcontrol.planning.proxy import (
    NO_ADMIN_SOCKET,
    Running,
    candidates,
    digest,
    has_admin_socket,
    template_path,
)
from orbitcontrol.planning.rotation import Place
from orbitcontrol.planning.verdicts import why_template_held
from orbitcontrol.ports import Proxy, StateFiles

_log = Log(__name__)

QUIET = 0.05
"""Seconds without a further change before the loop acts on one."""

LONGEST_DELAY = 0.5
"""Seconds after which it acts on changes that never pause."""


class ProxyLoop:
    """Keeps HAProxy's configuration true. ``watch`` is run by whoever made it.

    ``connect_every`` is the pause between two rounds of connects to orphans, in seconds.
    """

    def __init__(
        self,
        *,
        board: Board,
        proxy: Proxy,
        watch: EndpointWatch,
        connector: Connector,
        files: StateFiles,
        tick: float = TICK,
        connect_every: float = EVERY,
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
            board=board, watch=watch, memory=self._memory, connects=self._connects, alarm=self._alarm
        )
        self._attempts = Attempts(proxy=proxy, memory=self._memory, alarm=self._alarm, trace=board.trace)
        self._checked: frozenset[Place] = frozenset()
        self._absence_logged = False

    async def run(self) -> None:
        """Never returns."""
        board = self._board
        for cell in (board.desired, board.writes, self._watch.endpoints, self._watch.alive):
            cell.subscribe(self._wake)
        self._connects.reached.subscribe(self._wake)
        self._proxy.subscribe(self._wake.ring)
        await self._memory.load()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._connects.run(), name="orphans")
                await forever("proxy", self._step, wake=self._wake, problems=board.problems, tick=self._tick)
        finally:
            self._alarm.cancel()
            await self._proxy.close()

    async def _step(self, reasons: frozenset[str]) -> None:
        trouble: dict[str, str] = {}
        running = await self._keep_running(trouble)
        if "start" not in reasons:
            await self._settle()
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
            await self._memory.remember(applied=digest(text))
        return running

    async def _converge(self, now: Round) -> None:
        """Gives HAProxy the best template that it takes, with the endpoints of now."""
        wanted = None if now.desired.proxy_held else now.desired.proxy
        for candidate in candidates(wanted, self._memory.state.good):
            outcome = await self._attempts.attempt(candidate, now)
            if candidate == wanted and not isinstance(outcome, Undecided):
                self._judge(now, outcome)
            elif isinstance(outcome, Refused):
                now.trouble["haproxy"] = f"the last good template is refused: {outcome.error}"
            if isinstance(outcome, Accepted):
                self._checked = outcome.checked
                if not has_admin_socket(outcome.text):
                    advice = f"{template_path(candidate.tag)}: {NO_ADMIN_SOCKET}"
                    now.trouble.setdefault("template", advice)
                break
        if now.desired.proxy_held:
            self._judge(now, Refused(why_template_held(now.desired)))
        self._board.balances.set(frozenset(self._memory.state.services))
        self._watch.follow(frozenset(now.asked))

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
