"""What this machine is to be: the loop that turns the store's configuration into ``board.desired``.

Three watches wake it: ``config/meta``, which changes with every import, ``deployments/``, which changes
with every new revision and every rollout, and this machine's own key in ``drains/``. None is trusted for
content, because separate watches have no common order: the loop reads everything that concerns the
machine at one revision of the store.

Knowing less never replaces knowing more (invariant I1). Without ``config/meta``, or with one that
cannot be read, the configuration in force stays, and the machine says why; a daemon that has none in
force yet takes the one that it trusted last from its state directory. A configuration that does not
go on where that one ended is followed as far as ``planning.continuity`` allows. While an import is
being applied, which can last if its importer died, the configuration read before it stays in force,
and new revisions go on being followed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

from msgspec import Struct, structs

from orbitcontrol.agent.board import Board, Standing, Wake
from orbitcontrol.agent.loop import forever
from orbitcontrol.agent.mirror import Mirror
from orbitcontrol.agent.remembered import Remembered
from orbitcontrol.codec.configuration import ParsedConfiguration, parse_entries
from orbitcontrol.codec.deployments import parse_deployments
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode
from orbitcontrol.errors import UndecodableValue
from orbitcontrol.log import Log
from orbitcontrol.model.configuration import Desired, MachineIdentity
from orbitcontrol.model.rollouts import MachineDrain, Rollout
from orbitcontrol.model.state import ConfigMeta, Revisions
from orbitcontrol.model.stored import KeyValue, Range
from orbitcontrol.planning.continuity import Trust, continue_with
from orbitcontrol.planning.desired import GLOBAL_PROPERTIES, desired_of, zone_of
from orbitcontrol.ports import StateFiles, Store

_log = Log(__name__)

_SNAPSHOT = "snapshot.json"
_PATIENCE = 2.0
NO_CONFIGURATION = "the store has no configuration: run orbitctl import"
APPLYING = (
    "an import is being applied, the configuration in force stays until it is complete; "
    "if it was interrupted, `orbitctl import` finishes it"
)


class _Complete(Struct, frozen=True):
    """The configuration as it was read when no import was being applied."""

    meta: ConfigMeta
    parsed: ParsedConfiguration


class ConfigurationLoop:
    """Keeps ``board.desired`` up to date for one machine.

    ``machine.zone`` is the zone given on the command line; "" lets the configuration's networks
    decide.
    """

    def __init__(
        self, *, board: Board, store: Store, keys: Keys, machine: MachineIdentity, files: StateFiles
    ) -> None:
        self._board = board
        self._store = store
        self._keys = keys
        self._machine = machine
        self._revisions = Revisions()
        self._standing: dict[str, KeyValue] = {}
        self._complete: _Complete | None = None
        self._snapshot = Remembered(files, _SNAPSHOT, Trust, Trust())
        self._trust = self._saved = self._snapshot.load()
        self._wake = Wake()
        self._meta = Mirror(
            "meta",
            store=store,
            range=Range.single(keys.meta),
            problems=board.problems,
            history=board.history,
            relisted=board.relisted,
        )
        self._deployments = Mirror(
            "deployments",
            store=store,
            range=keys.deployments,
            problems=board.problems,
            history=board.history,
        )

        self._drain = Mirror(
            "drain",
            store=store,
            range=Range.single(keys.drain(machine.address)),
            problems=board.problems,
            history=board.history,
        )

    async def run(self) -> None:
        """Never returns."""
        self._drain.cell.subscribe(self._wake)
        self._meta.cell.subscribe(self._wake)
        self._deployments.cell.subscribe(self._wake)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._meta.run(), name="mirror meta")
            group.create_task(self._deployments.run(), name="mirror deployments")
            group.create_task(self._drain.run(), name="mirror drain")
            group.create_task(self._without_store(), name="snapshot")
            await forever("configuration", self._step, wake=self._wake, problems=self._board.problems)

    async def _step(self, reasons: frozenset[str]) -> None:
        meta = self._meta.cell.value
        if meta is None or (reasons == {"deployments"} and not self._concerned()):
            return
        trouble = await self._read() if meta.entries else NO_CONFIGURATION
        if not meta.entries:
            self._board.lease_doubt.ring("the configuration is gone: so may be what this machine wrote")
        if trouble:
            self._fall_back(trouble)
        problems = {"store": trouble} if trouble else {}
        desired = self._board.desired.value
        if desired is not None:
            problems |= {problem.subject: problem.reason for problem in desired.problems}
        self._board.problems.report("configuration", problems)

    def _concerned(self) -> bool:
        """False when the deployments of this machine's services are those already in force."""
        desired, deployments = self._board.desired.value, self._deployments.cell.value
        if desired is None or deployments is None:
            return True
        mine = {*desired.services, *desired.held}
        newest = self._of_machine(deployments.entries.values())
        if _restricted(newest, mine) != _restricted(self._revisions, mine):
            return True
        return self._rollouts(deployments.entries.values(), mine) != self._standing

    async def _read(self) -> str | None:
        """Reads the configuration and puts it in force; the reason why it could not be, or None."""
        tags = [self._keys.tag_config(tag) for tag in self._machine.tags]
        reading = await self._store.read(
            Range.single(self._keys.meta),
            Range.single(self._keys.global_properties),
            self._keys.service_configs,
            self._keys.deployments,
            Range.single(self._keys.drain(self._machine.address)),
            *tags,
        )
        metas, properties, services, deployments, drains, *of_tags = reading.ranges
        if not metas:
            return NO_CONFIGURATION
        try:
            meta = decode(metas[0].value, ConfigMeta, key=self._keys.meta)
        except UndecodableValue as error:
            return str(error)
        if meta.state == "complete":
            items = (item for found in (properties, services, *of_tags) for item in found)
            entries = {"/".join(self._keys.below(item.key)[1:]): item.value for item in items}
            self._complete = _Complete(meta, parse_entries(entries))
        elif self._complete is None or self._complete.meta.epoch != meta.epoch:
            return APPLYING  # what is in place is neither the old nor the new configuration
        self._put_in_force(self._complete, self._of_machine(deployments))
        self._tell_standing(reading.revision, deployments, drains)
        return APPLYING if meta.state == "applying" else None

    def _put_in_force(self, complete: _Complete, revisions: Revisions) -> None:
        meta, parsed = complete.meta, complete.parsed
        zone = self._machine.zone or zone_of(parsed.configuration, self._machine.address)
        known = self._board.desired.value or self._trust.base
        if GLOBAL_PROPERTIES in parsed.broken and known is not None:
            zone = known.machine.zone
        self._revisions = revisions
        self._adopt(meta, desired_of(structs.replace(self._machine, zone=zone), meta, parsed, revisions))

    def _adopt(self, meta: ConfigMeta, fresh: Desired) -> None:
        """Puts what was read in force, as far as the store is trusted, and remembers what is trusted."""
        continuation = continue_with(self._trust, meta, fresh)
        desired = continuation.desired
        if desired != self._board.desired.value:
            _log.info(
                "configuration in force",
                generation=desired.generation,
                services=len(desired.services),
                template=desired.proxy.tag if desired.proxy else "none",
                holding=desired.holding or "nothing",
            )
        self._board.desired.set(desired)
        self._trust = continuation.trust
        if self._trust != self._saved:
            self._snapshot.save(self._trust)
            self._saved = self._trust

    def _tell_standing(
        self, revision: int, deployments: Iterable[KeyValue], drains: Sequence[KeyValue]
    ) -> None:
        """Tells of the rollouts that concern this machine; those that cannot be read stay as they were."""
        desired = self._board.desired.value
        self._standing = self._rollouts(deployments, desired.services if desired is not None else ())
        before = self._board.rollouts.standing.value
        rollouts = {}
        for service, item in self._standing.items():
            try:
                rollouts[service] = decode(item.value, Rollout, key=item.key)
            except UndecodableValue as error:
                _log.warning("rollout cannot be read", service=service, reason=error)
                if before is not None and service in before.rollouts:
                    rollouts[service] = before.rollouts[service]
        drain = MachineDrain() if drains else None
        for item in drains:
            with suppress(UndecodableValue):
                drain = decode(item.value, MachineDrain, key=item.key)
        self._board.rollouts.standing.set(Standing(revision=revision, rollouts=rollouts, drain=drain))

    def _rollouts(self, deployments: Iterable[KeyValue], services: Collection[str]) -> dict[str, KeyValue]:
        """The rollouts of these services, as they stand in the store."""
        keys = {self._keys.rollout(service): service for service in services}
        return {keys[item.key]: item for item in deployments if item.key in keys}

    async def _without_store(self) -> None:
        """Falls back when the store has not answered for a while after the start."""
        await asyncio.sleep(_PATIENCE)
        self._fall_back("the store does not answer")

    def _fall_back(self, reason: str) -> None:
        """Takes the last trusted configuration, if this daemon has none in force and it is this machine's."""
        base = self._trust.base
        if self._board.desired.value is not None or base is None:
            return
        if (base.machine.address, base.machine.tags) != (self._machine.address, self._machine.tags):
            _log.warning(
                "the remembered configuration is of other tags, waiting for the store", reason=reason
            )
            return
        _log.warning("working from the last known configuration", generation=base.generation, reason=reason)
        self._board.desired.set(base)

    def _of_machine(self, items: Iterable[KeyValue]) -> Revisions:
        return parse_deployments(self._keys, items, machine=self._machine.address)


def _restricted(revisions: Revisions, services: set[str]) -> Revisions:
    return Revisions(
        service_wide={name: value for name, value in revisions.service_wide.items() if name in services},
        of_machine={name: value for name, value in revisions.of_machine.items() if name in services},
        broken={name: value for name, value in revisions.broken.items() if name in services},
    )
