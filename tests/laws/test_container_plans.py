"""Laws of what is started and cleared away, on a small world in which every action does what it says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct, structs

from orbitcontrol.model.configuration import Desired, EffectiveService, MachineIdentity
from orbitcontrol.model.containers import ContainerState, ObservedContainer
from orbitcontrol.model.service import Container, Service
from orbitcontrol.planning.container_specs import (
    WantedContainer,
    container_spec,
    own_containers,
    wanted_containers,
)
from orbitcontrol.planning.containers import (
    Action,
    ActionKey,
    Remove,
    Situation,
    Start,
    alive_by_instance,
    plan_containers,
)
from orbitcontrol.planning.strangers import Evict, adoptions, with_labels

ADDRESS = "10.0.0.5"
SERVICES = ("api", "web")
ALIVE = {"running", "paused"}
STATES: tuple[ContainerState, ...] = ("created", "running", "paused", "exited", "dead")


class World(Struct, frozen=True):
    """What there is; every living container of our own is published."""

    containers: tuple[ObservedContainer, ...]
    held: frozenset[str]
    authoritative: frozenset[str] = frozenset()
    made: int = 0

    def situation(self) -> Situation:
        own = own_containers(self.containers, address=ADDRESS)
        return Situation(
            address=ADDRESS,
            observed=self.containers,
            held=self.held,
            published={one.run_id for one in own if one.alive},
            authoritative=self.authoritative,
        )

    def looked_at(self, wanted: Collection[WantedContainer]) -> World:
        """The world in which what can be adopted has been."""
        labels = {one.container.id: one.labels for one in adoptions(wanted, self.containers, address=ADDRESS)}
        return structs.replace(self, containers=with_labels(self.containers, labels))

    def after(self, action: Action) -> World:
        world = self
        for step in steps(action):
            world = step(world)
        return world

    def stopped(self, id: str) -> World:
        return self.changed(id, state="exited") if self.state(id) in ALIVE else self

    def state(self, id: str) -> ContainerState:
        return next(one.state for one in self.containers if one.id == id)

    def changed(self, id: str, *, state: ContainerState) -> World:
        containers = (structs.replace(one, state=state) if one.id == id else one for one in self.containers)
        return structs.replace(self, containers=tuple(containers))

    def without(self, ids: Collection[str]) -> World:
        return structs.replace(self, containers=tuple(one for one in self.containers if one.id not in ids))

    def with_new(self, wanted: WantedContainer) -> World:
        """With a container that was created, and not started yet."""
        assert wanted.name not in {one.name for one in self.containers}, "Docker refuses a name in use"
        new = observed(wanted, id=f"new{self.made}", state="created")
        return structs.replace(self, containers=(*self.containers, new), made=self.made + 1)

    def with_started(self, wanted: WantedContainer) -> World:
        [new] = [one.id for one in self.containers if one.name == wanted.name]
        return self.changed(new, state="running")


Step = Callable[[World], World]


def steps(action: Action) -> Iterator[Step]:
    """What an action does, one call of Docker after the other: a daemon may end between any two."""
    match action:
        case Start(ended=ended):
            yield from (partial(World.without, ids={one.id}) for one in ended)
        case Remove(unwanted=own):
            yield partial(World.without, ids={own.container.id})
        case Evict(stranger=stranger):
            yield partial(World.stopped, id=stranger.id)
            yield partial(World.without, ids={stranger.id})
    if isinstance(action, Start):
        yield partial(World.with_new, wanted=action.wanted)
        yield partial(World.with_started, wanted=action.wanted)


def observed(wanted: WantedContainer, *, id: str, state: ContainerState = "running") -> ObservedContainer:
    labels = container_spec(wanted, port=wanted.port or 0).body["Labels"]
    return ObservedContainer(
        id=id,
        name=wanted.name,
        image=wanted.image,
        state=state,
        started_at=id,
        labels=labels,
        config={"Env": ["PATH=/bin", "A=1"]},
    )


def wanted_of(
    instances: dict[str, tuple[str, int]], *, address: str = ADDRESS
) -> tuple[WantedContainer, ...]:
    """Service → revision and number of instances."""
    services = {
        name: EffectiveService(
            service=Service(
                name=name,
                instances=count,
                container=Container(config={"Image": f"i:{revision}", "Env": ["A=1"]}),
            ),
            revision=revision,
        )
        for name, (revision, count) in instances.items()
    }
    machine = MachineIdentity(address=address)
    return wanted_containers(Desired(epoch="e", generation=1, machine=machine, services=services))


configurations = st.dictionaries(
    st.sampled_from(SERVICES), st.tuples(st.sampled_from("12"), st.integers(1, 3))
)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[tuple[WantedContainer, ...], World]:
    """A machine in any state that its past, its neighbours and strangers may have left."""
    configuration = draw(configurations)
    held = frozenset(name for name in SERVICES if name not in configuration and draw(st.booleans()))
    authoritative = draw(st.sampled_from([frozenset[str](), frozenset({"i"}), frozenset({"other"})]))
    containers: dict[str, ObservedContainer] = {}
    for index in range(draw(st.integers(0, 6))):
        past = wanted_of(draw(configurations), address=draw(st.sampled_from([ADDRESS] * 4 + ["10.0.0.6"])))
        if past:
            one = draw(st.sampled_from(past))
            container = observed(one, id=f"old{index}", state=draw(st.sampled_from(STATES)))
            if draw(st.integers(0, 5)) == 0:
                image = draw(st.sampled_from([container.image, "other:1"]))
                config = draw(st.sampled_from([container.config, {"Env": ["A=2"]}]))
                container = structs.replace(container, labels={}, image=image, config=config)
            if draw(st.integers(0, 3)) == 0:
                container = structs.replace(container, name=f"renamed{index}")
            containers.setdefault(container.name, container)
    return wanted_of(configuration), World(tuple(containers.values()), held, authoritative)


@given(worlds())
@settings(max_examples=400)
def test_applying_plans_comes_to_an_end_and_then_everything_is_as_wanted(
    start: tuple[tuple[WantedContainer, ...], World],
) -> None:
    wanted, world = start
    _is_as_wanted(wanted, _finished(wanted, world))


@given(worlds(), st.data())
@settings(max_examples=400)
def test_wherever_daemons_end_the_next_one_finishes_what_they_began(
    start: tuple[tuple[WantedContainer, ...], World], data: st.DataObject
) -> None:
    wanted, world = start
    for _ in range(data.draw(st.integers(1, 4), label="daemons that end")):
        world = world.looked_at(wanted)
        begun = [list(steps(action)) for action in plan_containers(wanted, world.situation()).actions]
        while begun:
            if data.draw(st.booleans(), label="ends here"):
                break
            one = data.draw(st.sampled_from(begun))  # actions go on side by side
            world = one.pop(0)(world)
            begun = [left for left in begun if left]
    _is_as_wanted(wanted, _finished(wanted, world))


def _finished(wanted: Collection[WantedContainer], world: World) -> World:
    """The world after plans were applied until there was nothing left to do."""
    for _ in range(40):
        world = world.looked_at(wanted)
        actions = plan_containers(wanted, world.situation()).actions
        if not actions:
            return world
        for action in actions:
            world = world.after(action)
    raise AssertionError("there is always something left to do")


def _is_as_wanted(wanted: Collection[WantedContainer], world: World) -> None:
    """Every instance runs, in whatever revision, or its name is another's; nothing of ours is left over."""
    own = own_containers(world.containers, address=ADDRESS)
    alive = alive_by_instance(own, {one.key: one for one in wanted})
    blocked = plan_containers(wanted, world.situation()).blocked
    for one in wanted:
        assert one.key in alive or one.key in blocked
    for left in own:
        assert left.alive or left.key in blocked or left.key.service in world.held
    assert world.held or not _evictable(world)


@given(worlds())
@settings(max_examples=400)
def test_strangers_and_held_services_are_never_touched(
    start: tuple[tuple[WantedContainer, ...], World],
) -> None:
    wanted, world = start
    world = world.looked_at(wanted)
    ours = {one.container.id: one.key for one in own_containers(world.containers, address=ADDRESS)}
    evictable = set() if world.held else _evictable(world)
    for action in plan_containers(wanted, world.situation()).actions:
        for container_id in _touched(action):
            assert container_id in ours or container_id in evictable
            assert container_id in evictable or ours[container_id].service not in world.held


@given(worlds())
@settings(max_examples=400)
def test_there_is_one_action_an_instance_and_none_on_what_runs_of_our_own(
    start: tuple[tuple[WantedContainer, ...], World],
) -> None:
    wanted, world = start
    actions = plan_containers(wanted, world.situation()).actions
    keys: list[ActionKey] = [action.key for action in actions]
    assert len(keys) == len(set(keys))
    own = own_containers(world.containers, address=ADDRESS)
    serving = {one.container.id for one in own if one.alive}
    for action in actions:
        assert not _touched(action) & serving


@given(worlds())
@settings(max_examples=200)
def test_nothing_alive_is_stopped_while_it_is_not_known_what_is_published(
    start: tuple[tuple[WantedContainer, ...], World],
) -> None:
    wanted, world = start
    unknown = structs.replace(world.situation(), published=None)
    alive = {one.id for one in world.containers if one.state in ALIVE}
    for action in plan_containers(wanted, unknown).actions:
        assert not _touched(action) & alive


def _touched(action: Action) -> set[str]:
    match action:
        case Start(ended=ended):
            return {one.id for one in ended}
        case Remove(unwanted=unwanted):
            return {unwanted.container.id}
        case Evict(stranger=stranger):
            return {stranger.id}


def _evictable(world: World) -> set[str]:
    """Containers that no machine's daemon created, of an authoritative image."""
    return {
        one.id
        for one in world.containers
        if not one.labels and one.image.partition(":")[0] in world.authoritative
    }
