"""What a simulated machine sees: its configuration, its containers, whether they are healthy.

On disk are what was last completed and the machine's own progress.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from orbitcontrol.errors import StoreError
from orbitcontrol.model.rollouts import Progress
from orbitcontrol.model.runs import RunId
from orbitcontrol.model.stored import Reading
from orbitcontrol.planning.container_specs import InstanceKey, OwnContainer
from orbitcontrol.planning.rollout_steps import Directive
from orbitcontrol.planning.rollouts import Health, Local
from simulation.daemon import TTL, Daemon, Faults
from simulation.engine import Engine
from simulation.memory_store import MemoryCore
from simulation.publisher import Publisher, Sight
from simulation.shop import RANGES, SERVICE, Aimed, Standing, containers_of, standing_of
from simulation.timeline import Timeline

TICK = 60.0


class Observer(Daemon):
    """See above. ``wake`` and ``_keep_running`` are what acts upon it."""

    def __init__(self, address: str, timeline: Timeline, core: MemoryCore, faults: Faults) -> None:
        self.engine = Engine(timeline, self._containers_changed)
        self.settled: Aimed | None = None
        self.progress: Progress | None = None
        self.relaunches: list[float] = []
        super().__init__(address, timeline, core, faults)
        self.publisher = Publisher(self, self._sight, self._endpoints_changed)
        self.forget()

    def forget(self) -> None:
        self.standing: Standing | None = None
        self.health: dict[RunId, Health] = {}
        self.directives: Mapping[RunId, Directive] | None = None
        self.guard: tuple[str, int] | None = None
        self.pulling: dict[str, str] = {}
        self.failures: dict[tuple[InstanceKey, str], str] = {}
        self.is_starting = False
        self.is_reading = False
        self.fresh: set[RunId] = set()
        """Runs that began in this session and were never published."""
        if hasattr(self, "publisher"):
            self.publisher.forget()

    def joined(self) -> None:
        self.fresh = set()
        for own in self.engine.own():
            self._judge_later(own)
        self.publisher.wake()
        self.look_at_configuration()
        self._tick(self.session)

    def _tick(self, session: str) -> None:
        if session == self.session:
            self.after(self.timeline.between(TICK * 0.8, TICK), lambda: self._tick(session))
            self.look_at_configuration()
            self.wake()

    # --- what is wanted --------------------------------------------------------------------------

    def look_at_configuration(self) -> None:
        """Something below ``config/``, ``deployments/`` or ``drains/`` has changed, or may have."""
        self.soon("configuration", self._configure)

    def _configure(self) -> None:
        if self.is_reading:
            self.look_at_configuration()
            return
        self.is_reading = True

        def read(answer: Reading | StoreError) -> None:
            self.is_reading = False
            if isinstance(answer, StoreError):
                self.soon("configuration", self._configure, delay=1.0)
                return
            standing = standing_of(self.address, answer)
            if standing is not None:
                self.standing = standing
                self._pull(standing)
                self.wake()

        self.read(RANGES, read)

    def _pull(self, standing: Standing) -> None:
        for image in sorted({one.image for one in standing.target}):
            if image not in self.engine.images and image not in self.pulling:
                self.pulling[image] = ""
                self.after(self.timeline.between(0.2, 8), partial(self._pulled, image))

    def _pulled(self, image: str) -> None:
        if image.endswith("-absent"):
            self.pulling[image] = "manifest unknown"
        else:
            self.engine.images.add(image)
            self.pulling.pop(image, None)
        self.wake()

    # --- what is -----------------------------------------------------------------------------------

    def _containers_changed(self) -> None:
        if not self.runs:
            return
        for own in self.engine.own():
            self._judge_later(own)
        self.publisher.wake()
        self.wake()
        self.soon("containers", self._keep_running, delay=0.05)

    def _judge_later(self, own: OwnContainer) -> None:
        if not own.alive or not self.runs:
            return
        run = own.run_id
        known = self.health.get(run)
        truth = self.engine.containers[own.container.id].serves
        if known is not None and known.up == truth:
            return
        if known is None and run in self.publisher.endpoints and truth:
            self.health[run] = Health(up=True, judged=True, since=self.timeline.now)
            return
        patience = self.timeline.between(0.1, 0.6) if truth else self.timeline.between(1.0, 4.0)
        self.soon(f"judge {run}", lambda: self._judge(run), delay=patience)

    def _judge(self, run: RunId) -> None:
        container = self.engine.containers.get(run.container_id)
        if container is None or not container.alive or container.started_at != run.started_at:
            self.health.pop(run, None)
            return
        known = self.health.get(run)
        if known is None or known.up != container.serves:
            reason = "" if container.serves else "status 503"
            self.health[run] = Health(
                up=container.serves, judged=True, since=self.timeline.now, reason=reason
            )
            self.publisher.wake()
            self.wake()
        if not container.serves and self.standing is not None:  # perhaps it is to be started anew
            self.after(float(self.standing.tree.relaunch.after) + 0.1, self.wake)

    def condemned(self) -> frozenset[RunId]:
        """The runs that have failed for so long that they are to be started anew."""
        assert self.standing is not None
        relaunch, now = self.standing.tree.relaunch, self.timeline.now
        recent = [each for each in self.relaunches if now - each < 3600]
        if len(recent) >= relaunch.limit:
            return frozenset()
        return frozenset(
            run
            for run, health in self.health.items()
            if health.judged and not health.up and now - health.since >= float(relaunch.after)
        )

    def _sight(self) -> Sight | None:
        alive = {own.run_id: own for own in self.engine.own() if own.alive}
        return Sight(runs=alive, health=self.health, directives=self.directives, guard=self.guard)

    def _endpoints_changed(self) -> None:
        if not self.registered and self.session and self.publisher.session == self.session:
            self._register_when_judged()
        for own in self.engine.own():
            if own.run_id in self.publisher.endpoints:
                self.fresh.discard(own.run_id)
                self.engine.containers[own.container.id].was_published = True
        self.wake()

    def _register_when_judged(self) -> None:
        if self.standing is None:
            return
        endpoints = self.publisher.endpoints
        for own in self.engine.own():
            health = self.health.get(own.run_id)
            if own.alive and (health is None or (health.up and own.run_id not in endpoints)):
                return
        keys = {own.key for own in self.engine.own()}
        if {one.key for one in self.standing.target} <= keys:
            self.register()

    # --- all of it -----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something has changed that the next step may depend on."""
        raise NotImplementedError

    def _keep_running(self) -> None:
        raise NotImplementedError

    def local(self) -> Local | None:
        """What the machine knows by itself; None while that is not enough to change anything."""
        standing = self.standing
        if standing is None or not self.session or self.publisher.session != self.session:
            return None
        if self.is_starting:
            return None
        now, own = self.timeline.now, self.engine.own()
        runs = {one.run_id for one in own if one.alive}
        self.health = {run: health for run, health in self.health.items() if run in runs}
        images = {
            one.image: self.pulling.get(one.image, "")
            for one in standing.target
            if one.image not in self.engine.images
        }
        return Local(
            address=self.address,
            session=self.session,
            service=SERVICE,
            bound=standing.aimed is not None,
            emptied=standing.emptied,
            out_of_time=standing.out_of_time,
            ttl=TTL,
            target=standing.target,
            settled=None if self.settled is None else containers_of(self.settled, self.address),
            progress=self.progress,
            generation=standing.tree.generation,
            known=standing.known,
            update=standing.tree.update,
            relaunch=standing.tree.relaunch,
            own=own,
            health=dict(self.health),
            ages={one.run_id: now - self.engine.containers[one.container.id].started for one in own},
            endpoints=self.publisher.endpoints,
            images=images,
            failures=dict(self.failures),
            condemned=self.condemned(),
            fresh=frozenset(runs & self.fresh),
        )
