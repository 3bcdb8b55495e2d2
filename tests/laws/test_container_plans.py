"""Laws of container planning, on a small world in which every action does what it says."""

from __future__ import annotations

from collections.abc import Collection

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct, structs

from orbitcontrol.model.configuration import Desired, EffectiveService, MachineIdentity
from orbitcontrol.model.containers import ContainerState, ObservedContainer
from orbitcontrol.model.runs import Verdict
from orbitcontrol.model.service import Container, Service
from orbitcontrol.planning.container_specs import (
    InstanceKey,
    WantedContainer,
    container_spec,
    own_containers,
    wanted_containers,
)
from orbitcontrol.planning.containers import (
    Action,
    Remove,
    Replace,
    Situation,
    Start,
    alive_by_instance,
    plan_containers,
)

ADDRESS = "10.0.0.5"
SERVICES = ("api", "web")
STATES: tuple[ContainerState, ...] = ("created", "running", "paused", "exited", "dead")


class World(Struct, frozen=True):
    """What there is; every living container of our own is up and published, unless it is broken."""

    containers: tuple[ObservedContainer, ...]
    held: frozenset[str]
    broken: frozenset[str] = frozenset()
    made: int = 0

    def situation(self) -> Situation:
        own = own_containers(self.containers, address=ADDRESS)
        up = {one.run_id for one in own if one.alive and one.revision not in self.broken}
        down = {one.run_id for one in own if one.alive} - up
        return Situation(
            address=ADDRESS,
            observed=self.containers,
            held=self.held,
            verdicts={run: Verdict(up=run in up, judged=True) for run in up | down},
            published=up,
        )

    def after(self, action: Action) -> World:
        match action:
            case Start(wanted=wanted, ended=ended):
                return self.without({one.id for one in ended}).with_new(wanted)
            case Replace(wanted=wanted, outdated=outdated):
                return self.without({outdated.container.id}).with_new(wanted)
            case Remove(unwanted=unwanted):
                return self.without({unwanted.container.id})

    def without(self, ids: Collection[str]) -> World:
        return structs.replace(self, containers=tuple(one for one in self.containers if one.id not in ids))

    def with_new(self, wanted: WantedContainer) -> World:
        assert wanted.name not in {one.name for one in self.containers}, "Docker refuses a name in use"
        new = observed(wanted, id=f"new{self.made}")
        return structs.replace(self, containers=(*self.containers, new), made=self.made + 1)


def observed(wanted: WantedContainer, *, id: str, state: ContainerState = "running") -> ObservedContainer:
    labels = container_spec(wanted, port=wanted.port or 0).body["Labels"]
    return ObservedContainer(
        id=id, name=wanted.name, image=wanted.image, state=state, started_at=id, labels=labels
    )


def wanted_of(
    instances: dict[str, tuple[str, int]], *, address: str = ADDRESS
) -> tuple[WantedContainer, ...]:
    """Service → revision and number of instances."""
    services = {
        name: EffectiveService(
            service=Service(
                name=name, instances=count, container=Container(config={"Image": f"i:{revision}"})
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
    containers: dict[str, ObservedContainer] = {}
    for index in range(draw(st.integers(0, 6))):
        past = wanted_of(draw(configurations), address=draw(st.sampled_from([ADDRESS] * 4 + ["10.0.0.6"])))
        if past:
            one = draw(st.sampled_from(past))
            container = observed(one, id=f"old{index}", state=draw(st.sampled_from(STATES)))
            if draw(st.integers(0, 5)) == 0:
                container = structs.replace(container, labels={})
            if draw(st.integers(0, 3)) == 0:
                container = structs.replace(container, name=f"renamed{index}")
            containers.setdefault(container.name, container)
    return wanted_of(configuration), World(tuple(containers.values()), held)


@given(worlds())
@settings(max_examples=400)
def test_applying_plans_comes_to_an_end_and_then_everything_is_as_wanted(
    start: tuple[tuple[WantedContainer, ...], World],
) -> None:
    wanted, world = start
    for _ in range(30):
        plan = plan_containers(wanted, world.situation())
        if not plan.actions:
            break
        for action in plan.actions:
            world = world.after(action)
    assert not plan.actions
    own = own_containers(world.containers, address=ADDRESS)
    alive = alive_by_instance(own, {one.key: one for one in wanted})
    lacking = {key.service for key in plan.blocked}  # what serves there is not taken out as well
    for one in wanted:
        assert one.key.service in lacking or alive[one.key].config_hash == one.config_hash
    for left in own:
        assert left.key in {one.key for one in wanted} or left.key.service in world.held


@given(worlds())
@settings(max_examples=200)
def test_any_interrupted_prefix_of_a_plan_leads_to_the_same_end(
    start: tuple[tuple[WantedContainer, ...], World],
) -> None:
    wanted, world = start
    for _ in range(60):
        actions = plan_containers(wanted, world.situation()).actions
        if not actions:
            break
        match actions[0]:
            case Replace(outdated=outdated):  # the daemon ends after the stop, before the start
                world = world.without({outdated.container.id})
            case Start(ended=ended) if ended:
                world = world.without({one.id for one in ended})
            case action:
                world = world.after(action)
    assert not plan_containers(wanted, world.situation()).actions


@given(worlds())
@settings(max_examples=400)
def test_strangers_and_held_services_are_never_touched(
    start: tuple[tuple[WantedContainer, ...], World],
) -> None:
    wanted, world = start
    ours = {one.container.id: one.key for one in own_containers(world.containers, address=ADDRESS)}
    for action in plan_containers(wanted, world.situation()).actions:
        for container_id in _touched(action):
            assert container_id in ours
            assert ours[container_id].service not in world.held


@given(worlds(), st.sampled_from(["1", "2"]))
@settings(max_examples=400)
def test_at_most_one_instance_of_a_service_is_replaced_at_a_time_and_one_action_an_instance(
    start: tuple[tuple[WantedContainer, ...], World], broken: str
) -> None:
    wanted, world = start
    world = structs.replace(world, broken=frozenset({broken}))
    actions = plan_containers(wanted, world.situation()).actions
    replaced = [action.key.service for action in actions if isinstance(action, Replace)]
    assert len(replaced) == len(set(replaced))
    keys: list[InstanceKey] = [action.key for action in actions]
    assert len(keys) == len(set(keys))


@given(worlds())
@settings(max_examples=200)
def test_nothing_alive_is_stopped_while_it_is_not_known_what_is_published(
    start: tuple[tuple[WantedContainer, ...], World],
) -> None:
    wanted, world = start
    unknown = structs.replace(world.situation(), published=None)
    alive = {one.container.id for one in own_containers(world.containers, address=ADDRESS) if one.alive}
    for action in plan_containers(wanted, unknown).actions:
        assert not _touched(action) & alive


@given(st.integers(2, 3))
def test_a_revision_that_never_works_takes_out_one_instance(instances: int) -> None:
    old = wanted_of({"web": ("1", instances)})
    new = wanted_of({"web": ("2", instances)})
    world = World(tuple(observed(one, id=one.name) for one in old), frozenset(), frozenset({"2"}))
    for _ in range(10):
        for action in plan_containers(new, world.situation()).actions:
            world = world.after(action)
    own = own_containers(world.containers, address=ADDRESS)
    assert sorted(one.revision for one in own) == ["1"] * (instances - 1) + ["2"]


def _touched(action: Action) -> set[str]:
    match action:
        case Start(ended=ended):
            return {one.id for one in ended}
        case Replace(outdated=outdated):
            return {outdated.container.id}
        case Remove(unwanted=unwanted):
            return {unwanted.container.id}
