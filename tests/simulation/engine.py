"""The Docker engine of a simulated machine, and how images behave that are named after it.

A revision is called ``<number>-<behaviour>``: *good* serves after a moment, *slow* after a while, *bad* never
does, *exit* ends at once, *flap* serves, fails and serves again, *absent* cannot be pulled.
"""

from __future__ import annotations

from collections.abc import Callable

from orbitcontrol.model.containers import ContainerState, ObservedContainer
from orbitcontrol.planning.container_specs import (
    OwnContainer,
    WantedContainer,
    orbit_labels,
    own_container,
)
from simulation.timeline import Timeline


class EngineError(Exception):
    """The engine says no."""


class SimulatedContainer:
    """A container, and whether it really answers."""

    def __init__(self, id: str, wanted: WantedContainer, port: int) -> None:
        self.id = id
        self.name = wanted.name
        self.image = wanted.image
        self.address = wanted.address
        self.labels = orbit_labels(wanted, port)
        self.port = port
        self.state: ContainerState = "created"
        self.started_at = ""
        self.started = 0.0
        self.exit_code = 0
        self.serves = False
        self.was_published = False
        self.ended_by_orbit = False
        """Its last end was a stop that Orbit had planned, and it served before."""
        self.unasked: frozenset[str] = frozenset()
        """The load balancers that were proven gone then."""
        self._own: OwnContainer | None = None

    @property
    def behaviour(self) -> str:
        return self.image.rpartition("-")[2]

    @property
    def alive(self) -> bool:
        return self.state == "running"

    @property
    def host_port(self) -> str:
        return f"{self.address}:{self.port}"

    @property
    def own(self) -> OwnContainer:
        """As the daemon sees it."""
        if self._own is None:
            observed = ObservedContainer(
                id=self.id,
                name=self.name,
                image=self.image,
                state=self.state,
                started_at=self.started_at,
                exit_code=self.exit_code,
                labels=self.labels,
            )
            self._own = own_container(observed, address=self.address)
        assert self._own is not None
        return self._own

    def change(self, **fields: object) -> None:
        """Sets what the daemon sees."""
        for name, value in fields.items():
            setattr(self, name, value)
        self._own = None


class Engine:
    """All containers and images of a machine. ``changed`` is called when something of them does."""

    def __init__(self, timeline: Timeline, changed: Callable[[], None]) -> None:
        self._timeline = timeline
        self._changed = changed
        self._ports = 30000
        self.containers: dict[str, SimulatedContainer] = {}
        self.images: set[str] = set()

    def own(self) -> tuple[OwnContainer, ...]:
        """All containers."""
        return tuple(one.own for one in self.containers.values())

    def at(self, host_port: str) -> SimulatedContainer | None:
        """The container that runs there, else the one that ended there last."""
        there = [one for one in self.containers.values() if one.host_port == host_port]
        return max(there, key=lambda one: (one.alive, one.started), default=None)

    def create(self, wanted: WantedContainer) -> SimulatedContainer:
        """Creates and starts one."""
        if wanted.image not in self.images:
            raise EngineError(f"no such image: {wanted.image}")
        if any(one.name == wanted.name for one in self.containers.values()):
            raise EngineError(f"the name {wanted.name} is taken")
        port = wanted.port
        if port is None:
            self._ports += 1
            port = self._ports
        made = SimulatedContainer(self._timeline.new_id("c"), wanted, port)
        self.containers[made.id] = made
        try:
            self.start(made)
        except EngineError:
            del self.containers[made.id]
            raise
        return made

    def start(self, container: SimulatedContainer) -> None:
        """Starts a container that does not run."""
        if any(one.alive and one.port == container.port for one in self.containers.values()):
            raise EngineError(f"port {container.port} is taken")
        now = self._timeline.now
        container.change(state="running", started_at=f"{now:014.6f}", started=now, serves=False)
        container.change(was_published=False, ended_by_orbit=False)
        for other in self.containers.values():  # whoever asks there from now on does not mean them
            if other is not container and other.host_port == container.host_port:
                other.change(ended_by_orbit=False)
        self._live(container)
        self._changed()

    def stop(self, container: SimulatedContainer) -> None:
        """It has ended."""
        if container.alive:
            container.change(state="exited", serves=False, exit_code=0)
            self._changed()

    def rename(self, container: SimulatedContainer, name: str) -> None:
        """Gives it another name."""
        if container.name == name:
            return
        if any(one.name == name for one in self.containers.values()):
            raise EngineError(f"the name {name} is taken")
        container.change(name=name)
        self._changed()

    def remove(self, id: str) -> None:
        """Removes one that does not run."""
        container = self.containers.get(id)
        if container is not None and container.alive:
            raise EngineError(f"{container.name} runs")
        self.containers.pop(id, None)
        self._changed()

    def stop_all(self) -> None:
        """The machine is down."""
        for container in self.containers.values():
            if container.alive:
                container.change(state="exited", serves=False, exit_code=137, ended_by_orbit=False)

    def _live(self, container: SimulatedContainer) -> None:
        between = self._timeline.between
        match container.behaviour:
            case "good":
                self._becomes(container, between(0.2, 3))
            case "slow":
                self._becomes(container, between(5, 25))
            case "exit":
                self._ends(container, between(0.1, 2))
            case "flap":
                self._becomes(container, between(0.5, 3))
                self._becomes(container, between(4, 30), serves=False)
            case _:
                pass

    def _becomes(self, container: SimulatedContainer, delay: float, *, serves: bool = True) -> None:
        started = container.started_at

        def happens() -> None:
            if not container.alive or container.started_at != started:
                return
            container.serves = serves
            self._changed()
            if container.behaviour == "flap":
                self._becomes(container, self._timeline.between(4, 60), serves=not serves)

        self._timeline.after(delay, happens)

    def _ends(self, container: SimulatedContainer, delay: float) -> None:
        started = container.started_at

        def happens() -> None:
            if container.alive and container.started_at == started:
                container.change(state="exited", serves=False, exit_code=1, ended_by_orbit=False)
                self._changed()

        self._timeline.after(delay, happens)
