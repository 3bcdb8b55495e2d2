"""A life of a simulated world: rollouts one after the other, each amid random faults, then peace.

When nothing goes wrong any more, everything has to come to an end: no slot is held, no rollout is under way,
who is to run what serves, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from msgspec import Struct

from orbitcontrol.model.durations import Duration
from orbitcontrol.model.service import Relaunch, Update
from orbitcontrol.planning.container_specs import is_kept
from simulation.balancer import Balancer
from simulation.daemon import Daemon
from simulation.machine import Machine
from simulation.shop import Tree
from simulation.timeline import Timeline
from simulation.world import Kinds, World

QUIET = 150.0
"""Longer than any pause between two writes, but those after drains that nobody confirms."""
LONG = 4 * 3600.0


class Outcome(Struct, frozen=True, kw_only=True):
    """What a life was made of."""

    rollouts: int
    events: int
    requests: int
    stops: int


class Life:
    """One world; ``kinds`` are its classes."""

    def __init__(self, seed: str, *, kinds: Kinds | None = None, machines: int | None = None) -> None:
        self.dice = Timeline(f"{seed} shape")
        pick = self.dice.dice.choice
        count = machines or pick([1, 2, 3, 3, 4, 5, 6, 8])
        self.world = World(
            seed, machines=count, balancers=pick([1, 1, 2, 2, 3]), tree=self._tree(), kinds=kinds
        )
        self.rollouts = 0

    def run(self, *, rollouts: int) -> Outcome:
        """So many changes by people, each followed to its end."""
        world = self.world
        self._peace()
        for _ in range(rollouts):
            self._change()
            self._trouble(seconds=world.timeline.between(10, 240))
            world.heal_all()
            self._end()
        invariants = world.invariants
        return Outcome(
            rollouts=len(invariants.begun),
            events=world.timeline.events,
            requests=invariants.requests,
            stops=invariants.stopped,
        )

    def _tree(self) -> Tree:
        dice = self.dice.dice
        parallel: list[int | str] = [1, 1, 1, 2, 3, "30%"]
        picks_port = dice.random() < 0.5
        update = Update(
            max_parallel=dice.choice(parallel),
            min_healthy_time=Duration(dice.choice([0, 2, 5])),
            healthy_deadline=Duration(dice.choice([30, 50])),
            auto_revert=dice.random() < 0.6,
            canary=dice.choice([0, 0, 0, 1, 2]),
            order="start-first" if picks_port and dice.random() < 0.6 else "stop-first",
            drain_timeout=Duration(dice.choice([5, 15, 30])),
        )
        return Tree(
            update=update,
            instances=dice.choice([1, 1, 2, 3]) if picks_port else 1,
            picks_port=picks_port,
            relaunch=Relaunch(after=Duration(30)),
        )

    # --- what people do ------------------------------------------------------------------------------

    def _change(self) -> None:
        world, dice = self.world, self.world.timeline.dice
        people = world.people
        kind = dice.choices(
            ["revision", "machine", "relaunch", "variant", "instances", "bound", "drain"],
            [10, 2, 2, 3, 1, 1, 2],
        )[0]
        address = dice.choice(list(world.machines))
        world.invariants.note(f"--- people: {kind}")
        match kind:
            case "revision":
                people.set_revision(people.new_revision(self._behaviour()))
            case "machine":
                people.set_revision(people.new_revision(self._behaviour()), machine=address)
            case "relaunch":
                people.relaunch()
            case "variant":
                people.imports(variant=people.tree.variant + 1)
            case "instances" if people.tree.picks_port:
                people.imports(instances=dice.choice([1, 2, 3]))
            case "bound":
                bound = set(people.tree.unbound) ^ {address}
                if len(bound) < len(world.machines):
                    people.imports(unbound=tuple(sorted(bound)))
            case _:
                self._drain(address)

    def _behaviour(self) -> str:
        behaviours = ["good", "slow", "bad", "exit", "flap", "absent"]
        return self.world.timeline.dice.choices(behaviours, [10, 2, 2, 1, 1, 0.5])[0]

    def _drain(self, address: str) -> None:
        people, dice = self.world.people, self.world.timeline.dice
        if address in self.world.invariants.drains:
            people.undrain(address)
        elif len(self.world.invariants.drains) + 1 < len(self.world.machines):
            people.drain(address, deadline=dice.choice(["", "", "over"]))

    # --- what goes wrong -------------------------------------------------------------------------------

    def _trouble(self, *, seconds: float) -> None:
        world, dice = self.world, self.world.timeline.dice
        world.faults.ambiguous = dice.choice([0.0, 0.0, 0.03, 0.1])
        world.faults.docker = dice.choice([0.0, 0.0, 0.0, 0.03])
        rate = dice.choice([0.0, 5.0, 15.0, 40.0])
        end = world.timeline.now + seconds
        while rate and world.timeline.now < end:
            world.run_for(min(dice.expovariate(1 / rate), seconds))
            self._fault()
        world.run_for(max(end - world.timeline.now, 0.0))

    def _fault(self) -> None:
        world, dice = self.world, self.world.timeline.dice
        machine = dice.choice(list(world.machines.values()))
        balancer = dice.choice(list(world.balancers.values()))
        daemon: Daemon = machine if dice.random() < 0.7 else balancer
        short, long = dice.uniform(0.05, 3), dice.uniform(3, 90)
        seconds = short if dice.random() < 0.4 else long
        faults: list[tuple[float, Callable[[], object]]] = [
            (6, lambda: world.crash(daemon, seconds)),
            (6, lambda: world.freeze(daemon, seconds)),
            (4, lambda: world.split(daemon, seconds)),
            (1, lambda: world.isolate(machine, seconds)),
            (1, lambda: world.take_down(daemon, seconds)),
            (0.2, lambda: self._dies(daemon)),
            (4, lambda: self._reload(balancer)),
            (1, lambda: self._route(balancer, seconds)),
            (1, self._change),
            (0.5, world.people.pause),
            (0.5, world.people.go_on),
        ]
        happens = dice.choices([each for _, each in faults], [weight for weight, _ in faults])[0]
        happens()

    def _dies(self, daemon: Daemon) -> None:
        """For ever, unless it is the last that could run the service."""
        up = [one for one in self.world.machines.values() if one.host_up]
        if not isinstance(daemon, Machine) or len(up) > 1:
            self.world.take_down(daemon, None)

    def _reload(self, balancer: Balancer) -> None:
        self.world.invariants.note(f"--- {balancer.address} reloads")
        balancer.reload_wanted = True
        balancer.sync()

    def _route(self, balancer: Balancer, seconds: float) -> None:
        """It does not route to the service for a while."""
        self.world.invariants.note(f"--- {balancer.address} does not route for {seconds:.1f}")
        balancer.routes = False
        balancer.sync()

        def again() -> None:
            balancer.routes = True
            balancer.sync()

        self.world.timeline.after(seconds, again)

    # --- how it ends -----------------------------------------------------------------------------------

    def _end(self) -> None:
        world = self.world
        for daemon in world.daemons:
            world.timeline.after(100, partial(self._forget, daemon))
        for _ in range(20):
            rollout = world.invariants.rollout
            is_paused = rollout is not None and rollout.state == "paused"
            if not self._flaps():
                rests = self._peace()
                rollout = world.invariants.rollout
                if rests and (rollout is None or rollout.state != "paused"):
                    break
                world.people.go_on()
            elif is_paused:
                world.people.go_on()
            elif rollout is None or rollout.state != "running":
                world.people.set_revision(world.people.new_revision("good"))
            world.run_for(300)
        self._check()

    def _forget(self, daemon: Daemon) -> None:
        if not daemon.host_up:
            self.world.people.forget(daemon.address)

    def _flaps(self) -> bool:
        """True while something runs that never comes to rest."""
        return any(
            container.alive and container.behaviour in ("flap", "exit")
            for machine in self.world.machines.values()
            for container in machine.engine.containers.values()
        ) or any(
            one.image.endswith(("-flap", "-exit"))
            for machine in self.world.machines.values()
            if machine.standing is not None
            for one in machine.standing.target
        )

    def _peace(self) -> bool:
        """Waits until nothing is written any more; False when what runs can never come to rest."""
        world = self.world
        rests = world.run_until_quiet(quiet=QUIET, at_most=LONG)
        if not rests and not self._flaps():
            world.invariants.broken("it does not come to rest")
        return rests

    def _check(self) -> None:
        world = self.world
        invariants = world.invariants
        rollout = invariants.rollout
        if rollout is not None and rollout.state not in ("complete", "failed"):
            invariants.broken(f"nobody ends {rollout}; progress {invariants.progress}")
        if invariants.slots:
            invariants.broken(f"a slot stays: {invariants.slots}")
        for machine in world.machines.values():
            if machine.host_up:
                self._check_machine(machine)

    def _check_machine(self, machine: Machine) -> None:
        invariants, standing = self.world.invariants, machine.standing
        if standing is None or machine.plan is None:
            invariants.broken(f"{machine.address} knows nothing")
            return
        alive = [one for one in machine.engine.containers.values() if one.alive]
        wanted = standing.aimed is not None and not standing.emptied
        if not wanted:
            if alive:
                invariants.broken(f"{machine.address} still runs {[one.name for one in alive]}")
            return
        aim = machine.plan.aim
        if any(not one.image.endswith(("-good", "-slow")) for one in aim):
            return
        serving = {one.own.key: one for one in alive if one.serves}
        for one in aim:
            found = serving.get(one.key)
            arrived = machine.progress is not None and machine.progress.step in ("done", "failed")
            if found is None or is_kept(found.own) or (arrived and found.image != one.image):
                invariants.broken(f"{machine.address} should serve {one.name} from {one.image}")
            elif found.own.run_id not in machine.publisher.endpoints:
                invariants.broken(f"{machine.address} does not publish {one.name}")
        if len(alive) != len(aim):
            invariants.broken(f"{machine.address} runs {[one.name for one in alive]}")
        if any(endpoint.state != "up" for endpoint in machine.publisher.endpoints.values()):
            invariants.broken(f"{machine.address} drains still")
