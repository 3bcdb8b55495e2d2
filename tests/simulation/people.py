"""What people do in a simulated world, by the same records as the commands write."""

from __future__ import annotations

from msgspec import UNSET, UnsetType, structs

from orbitcontrol.codec.values import decode, encode
from orbitcontrol.model.rollouts import Cause, MachineDrain, Rollout
from orbitcontrol.model.state import Deployment
from orbitcontrol.model.stored import Delete, KeyValue, Operation, Put, Range
from orbitcontrol.planning.rollout_records import aim_of, begun, operations_of
from simulation.daemon import KEYS
from simulation.memory_store import MemoryCore
from simulation.shop import META, SERVICE, Tree
from simulation.timeline import Timeline


class People:
    """Everybody who runs commands."""

    def __init__(self, core: MemoryCore, timeline: Timeline) -> None:
        self._core = core
        self._timeline = timeline
        self._numbers = 0

    @property
    def tree(self) -> Tree:
        return decode(self._core.read(Range.single(META)).ranges[0][0].value, Tree, key=META)

    @property
    def rollout(self) -> Rollout | None:
        found = self._core.read(Range.single(KEYS.rollout(SERVICE))).ranges[0]
        return decode(found[0].value, Rollout, key="") if found else None

    def deployment(self, key: str) -> Deployment | None:
        found = self._core.read(Range.single(key)).ranges[0]
        return decode(found[0].value, Deployment, key=key) if found else None

    def new_revision(self, behaviour: str) -> str:
        """A revision that was never used before."""
        self._numbers += 1
        return f"{self._numbers}-{behaviour}"

    def install(self, tree: Tree) -> None:
        """The first import, and the first revision."""
        first = Deployment(revision=self.new_revision("good"), serial=1, deployment_time="", user="")
        self._core.commit((), (Put(META, encode(tree)), Put(KEYS.revision(SERVICE), encode(first))))

    def set_revision(self, revision: str, *, machine: str | None = None) -> None:
        """``service web set revision``, for all machines or one."""
        key = KEYS.revision(SERVICE) if machine is None else KEYS.machine_revision(SERVICE, machine)
        serial = 1 + max(one.serial for one in self._deployments().values())
        made = Deployment(revision=revision, serial=serial, deployment_time="", user="ann")
        before: list[Operation] = [Put(key, encode(made))]
        if machine is None:
            before += [
                Delete(Range.single(other))
                for other in self._deployments()
                if other != KEYS.revision(SERVICE)
            ]
        scope: tuple[str, ...] | UnsetType = UNSET if machine is None else (machine,)
        standing = self.deployment(key) or self.deployment(KEYS.revision(SERVICE))
        generation = self.tree.generation
        target = aim_of(made, generation=generation, own=machine is not None)
        present = aim_of(
            standing, generation=generation, own=self.deployment(key) is not None and machine is not None
        )
        self._begin("revision", scope, target, present, before)

    def relaunch(self) -> None:
        """``service web relaunch``."""
        standing = aim_of(self.deployment(KEYS.revision(SERVICE)), generation=self.tree.generation)
        self._begin("relaunch", UNSET, standing, standing, [])

    def imports(self, **changes: object) -> None:
        """Another configuration."""
        tree = structs.replace(self.tree, generation=self.tree.generation + 1, **changes)
        self._core.commit((), (Put(META, encode(tree)),))

    def steer(self, **changes: object) -> None:
        """``pause``, ``resume``, ``promote``."""
        rollout = self.rollout
        if rollout is not None:
            changed = structs.replace(rollout, **changes)
            self._core.commit((), (Put(KEYS.rollout(SERVICE), encode(changed)),))

    def pause(self) -> None:
        if self.rollout is not None and self.rollout.state == "running":
            self.steer(state="paused", reason="by ann")

    def go_on(self) -> None:
        """Resumes, or promotes a canary that is over."""
        rollout = self.rollout
        if rollout is not None and rollout.state == "paused":
            self.steer(state="running", reason="", promoted=rollout.promoted or "canary" in rollout.reason)

    def drain(self, address: str, *, deadline: str = "") -> None:
        """``machine A drain``."""
        self._core.commit((), (Put(KEYS.drain(address), encode(MachineDrain(deadline=deadline))),))

    def undrain(self, address: str) -> None:
        """``machine A undrain``."""
        self._core.commit((), (Delete(Range.single(KEYS.drain(address))),))

    def forget(self, address: str) -> None:
        """``machine A forget``, of one that is gone."""
        doomed = [KEYS.progress(SERVICE, address), KEYS.load_balancer(SERVICE, address), KEYS.drain(address)]
        slots = self._core.read(KEYS.slots(SERVICE)).ranges[0]
        doomed += [item.key for item in slots if f'"{address}"'.encode() in item.value]
        self._core.commit((), tuple(Delete(Range.single(key)) for key in doomed))

    def _deployments(self) -> dict[str, Deployment]:
        found = self._core.read(KEYS.deployments_of(SERVICE)).ranges[0]
        return {
            item.key: decode(item.value, Deployment, key=item.key)
            for item in found
            if item.key == KEYS.revision(SERVICE) or item.key in KEYS.machine_revisions(SERVICE)
        }

    def _begin(
        self,
        cause: Cause,
        scope: tuple[str, ...] | UnsetType,
        target: object,
        standing: object,
        before: list[Operation],
    ) -> None:
        history: tuple[KeyValue, ...] = self._core.read(KEYS.history(SERVICE)).ranges[0]
        progress = self._core.read(KEYS.progress_of(SERVICE)).ranges[0]
        rollout = begun(
            id=self._timeline.new_id("r"),
            cause=cause,
            scope=scope,
            target=target,  # type: ignore[arg-type]
            standing=standing,  # type: ignore[arg-type]
            present=self.rollout,
            policy=self.tree.update,
            live=max(1, len(progress)),
            user="ann",
            started="2026-01-01T00:00:00Z",
        )
        operations = operations_of(KEYS, SERVICE, rollout, present=self.rollout, history=history)
        self._core.commit((), (*before, *operations))
