"""Who this machine is to the others: its lease, its session, and that it has registered.

A **session** is one life of a daemon under one lease. ``alive/<address>`` carries the session under
the lease, and so does every endpoint; when the lease ends they all end in one revision.

Starting, in this order:

1. The identity in the state directory names address, machine, lease and session of the last life, and
   the epoch of the store that it had. If all of them are still the same, the lease can be renewed and
   ``alive/<address>`` carries that very session, it is *resumed*: no key changes, no endpoint moves. (A
   copied disk is another machine; a store filled anew is another store, whatever its keys say.)
2. Otherwise a record may be there that carries an *earlier session of this machine*: a backup was put
   back, whose leases live on for their time. It is replaced at once, see below.
   Any other record is somebody else's, or was left by a life that this machine has forgotten. It is
   given one TTL to end. If it does not, this daemon refuses, naming the holder: two daemons on one
   address would take each other's endpoints away.
3. Otherwise a lease is granted and the identity written *before* the record is put, so that a crash
   or a lost connection between the two leaves either a lease that nobody uses, or a session that
   step 1 finds again; never a session that this machine does not know.

A lease that is lost while the daemon runs leads back to step 2 with a new session; the endpoints
loop then publishes anew under it what is proven, by answers that are not older than the checks' own pace.

Why an earlier session may be replaced without waiting: sessions are random, and each is written to the
state directory, with address and machine, before anybody can see it. So who finds one there has the
directory of the daemon that had it. The directory is locked by one daemon at a time, hence that daemon
is this one, or has ended. A copy of the directory on another machine has another machine id, and on the
same machine (or a clone that kept its machine id) at the same address it could resume the very session
already, by step 1: nothing is trusted here that is not trusted there. Where the machine has no id, nothing
tells it from another one, and step 2 waits. The record is replaced in a transaction that compares
it, so one that somebody wrote meanwhile stays. What the old lease still carries ends with it; load
balancers do not add endpoints of a session that is not the one in ``alive/`` (``planning.restored``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from msgspec import Struct, structs

from orbitcontrol.agent.board import Board, Session, Wake
from orbitcontrol.agent.loop import forever
from orbitcontrol.agent.remembered import Remembered
from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import LeaseLost, OrbitError, StoreError, UndecodableValue
from orbitcontrol.log import Log
from orbitcontrol.model.state import Alive, ConfigMeta
from orbitcontrol.model.stored import Absent, Compare, KeyValue, Put, Range, Unchanged
from orbitcontrol.planning.endpoints import all_judged
from orbitcontrol.ports import StateFiles, Store

_log = Log(__name__)

_IDENTITY = "identity.json"
_REMEMBERED_SESSIONS = 16
"""A backup is older than that only where a daemon has lost its lease as often since."""

_SLACK = 1.0
_RETRY = 0.5


class AddressTaken(OrbitError):
    """Another daemon holds this machine's address in the store."""


class _Identity(Struct, frozen=True, kw_only=True, rename="pascal"):
    """``epoch`` is "" when the store had no configuration yet. ``sessions`` are the newest, this one last."""

    address: str = ""
    machine_id: str = ""
    epoch: str = ""
    lease: int = 0
    session: str = ""
    sessions: tuple[str, ...] = ()


class Membership:
    """Keeps ``board.session`` and ``alive/<address>`` for one machine. ``ttl`` is in seconds.

    ``machine_id`` tells the machine from another one that has got its state directory.
    """

    def __init__(
        self,
        *,
        board: Board,
        store: Store,
        keys: Keys,
        address: str,
        machine_id: str,
        ttl: float,
        files: StateFiles,
        new_id: Callable[[], str],
    ) -> None:
        self._board = board
        self._store = store
        self._key = keys.alive(address)
        self._meta = keys.meta
        self._address = address
        self._machine_id = machine_id
        self._ttl = ttl
        self._identity = Remembered(files, _IDENTITY, _Identity, _Identity())
        self._new_id = new_id
        self._foreign: tuple[str, float] | None = None

    async def run(self) -> None:
        """Never returns. Raises ``AddressTaken`` when another daemon keeps the address."""
        wake = Wake()
        board = self._board
        board.session.subscribe(wake)
        board.desired.subscribe(wake)
        board.runs.subscribe(wake)
        board.verdicts.subscribe(wake)
        board.published.subscribe(wake)
        board.publisher.subscribe(wake)
        board.instances.subscribe(wake)
        board.relisted.subscribe(wake)
        board.relisted.subscribe(board.lease_doubt)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_session(), name="session")
            await forever("registration", self._register_when_judged, wake=wake, problems=board.problems)

    async def _keep_session(self) -> None:
        """Gets a session, renews its lease at a third of its time, gets another when it is lost."""
        doubted = False
        while True:
            pause = _RETRY
            try:
                if (lasts := await self._renewed_or_new(doubted=doubted)) is not None:
                    pause = min(lasts, self._ttl) / 3
                doubted = False
                self._board.problems.report("session", self._waiting())
            except AddressTaken:
                raise
            except OrbitError as error:
                subject = "store" if isinstance(error, StoreError) else "state directory"
                self._board.problems.report("session", {subject: str(error)})
            doubted |= await self._board.lease_doubt.wait(pause) != {"tick"}

    def _waiting(self) -> dict[str, str]:
        """The problem of a machine whose address somebody else still keeps; none when it has a session."""
        if self._board.session.value is not None or self._foreign is None:
            return {}
        return {
            "session": f"session {self._foreign[0]} of another daemon keeps the address {self._address}: "
            "waiting for it to end; stop that daemon, or give this one its own --machine-address"
        }

    async def _renewed_or_new(self, *, doubted: bool) -> float | None:
        """One round; how many seconds the lease lasts from now, None while there is no session.

        A resumed lease lasts as long as it was granted for, whatever this daemon would ask for.

        A lease can outlive its keys, when somebody deletes them: that is another session too, because
        with the old one every load balancer would take the missing endpoints for withdrawn.
        """
        session = self._board.session.value
        if session is not None:
            try:
                lasts = await self._store.keep_alive(session.lease)
                if not doubted or await self._is_recorded(session.id):
                    return lasts
                _log.warning("record lost, registering anew", session=session.id)
            except LeaseLost:
                _log.warning("lease lost, registering anew", session=session.id)
            self._leave()
        session = await self._resumed() or await self._registered()
        self._board.session.set(session)
        return None if session is None else await self._store.keep_alive(session.lease)

    def _leave(self) -> None:
        """Ends the session here. With it ends the proof of what was published under it.

        A daemon that was frozen while its lease ended believes its last verdicts, however old they are.
        So what is up is only presumed to be, before there is another session to publish it under, until
        the health loop has looked at what that rests on.
        """
        board = self._board
        up = {run_id for run_id, verdict in board.verdicts.value.items() if verdict.up}
        board.presumed.set(board.presumed.value | up)
        if board.proven.value is not None:
            board.proven.set(frozenset())
        board.session.set(None)

    async def _resumed(self) -> Session | None:
        """The session of the last life, if its lease and its record are still there."""
        identity = self._identity.load()
        if (identity.address, identity.machine_id) != (self._address, self._machine_id):
            return None
        epoch = await self._epoch()
        if epoch and identity.epoch and epoch != identity.epoch:
            return None  # before the lease is renewed: its record must be able to end
        try:
            await self._store.keep_alive(identity.lease)
        except LeaseLost:
            return None
        if not await self._is_recorded(identity.session):
            return None
        _log.info("session resumed", session=identity.session)
        return Session(id=identity.session, lease=identity.lease, resumed=True)

    async def _epoch(self) -> str:
        """The epoch of the store; "" while it has no configuration that can be read."""
        meta = await self._store.get(self._meta)
        try:
            return "" if meta is None else decode(meta.value, ConfigMeta, key=meta.key).epoch
        except UndecodableValue:
            return ""

    async def _is_recorded(self, session: str) -> bool:
        record = await self._store.get(self._key)
        return record is not None and _session_of(record) == session

    async def _registered(self) -> Session | None:
        """A new session; None while somebody else's record has time left to end."""
        past = self._past_sessions()
        record = await self._store.get(self._key)
        if record is not None and record.lease:
            if (holder := _session_of(record)) not in past:
                self._wait_for_end(holder)
                return None
            _log.info("an earlier session of this machine is replaced", session=holder)
        self._foreign = None
        lease = await self._store.grant(self._ttl)
        session = Session(id=self._new_id(), lease=lease, resumed=False)
        self._identity.save(
            _Identity(
                address=self._address,
                machine_id=self._machine_id,
                epoch=await self._epoch(),
                lease=lease,
                session=session.id,
                sessions=(*past, session.id)[-_REMEMBERED_SESSIONS:],
            )
        )
        before: Compare = Absent(Range.single(self._key))
        if record is not None:  # our own, or written by hand: without a lease it is no daemon's
            before = Unchanged(self._key, record.mod_revision)
        await self._store.commit([before], [Put(self._key, encode(Alive(session=session.id)), lease)])
        _log.info("session begun", session=session.id, ttl=self._ttl)
        return session

    def _past_sessions(self) -> tuple[str, ...]:
        """The sessions that only this machine can have had, oldest first; none while it has no id."""
        identity = self._identity.load()
        is_ours = (identity.address, identity.machine_id) == (self._address, self._machine_id)
        return identity.sessions if is_ours and self._machine_id else ()

    def _wait_for_end(self, holder: str) -> None:
        """Gives a foreign record one TTL from when it was first seen, then raises ``AddressTaken``."""
        now = time.monotonic()
        if self._foreign is None or self._foreign[0] != holder:
            self._foreign = (holder, now + self._ttl + _SLACK)
        elif now > self._foreign[1]:
            raise AddressTaken(
                f"{self._key}: session {holder} of another daemon keeps the address {self._address}; "
                "stop that daemon, or give this one its own --machine-address"
            )

    async def _register_when_judged(self, reasons: frozenset[str]) -> None:
        """Puts ``Registered`` once every service of the machine has been judged in this session.

        After the store was away it may not stand there any more, and is put again.
        """
        board = self._board
        if "relisted" in reasons:
            board.registered.set("")
        session, desired, runs = board.session.value, board.desired.value, board.runs.value
        if session is None or session.id == board.registered.value or desired is None or runs is None:
            return
        if session.id != board.publisher.value:
            return  # what is said to be published was so under an earlier lease
        standing = board.rollouts.standing.value
        is_emptied = standing is not None and standing.drain is not None
        if not is_emptied and not all_judged(
            desired,
            runs=runs,
            verdicts=board.verdicts.value,
            published=board.published.value,
            instances=board.instances.value,
        ):
            return
        record = await self._store.get(self._key)
        if record is None or _session_of(record) != session.id:
            board.lease_doubt.ring("record is gone")
            return
        alive = decode(record.value, Alive, key=self._key)
        if not alive.registered:
            await self._store.commit(
                [Unchanged(self._key, record.mod_revision)],
                [Put(self._key, encode(structs.replace(alive, registered=True)), session.lease)],
            )
            _log.info("registered", session=session.id)
        board.registered.set(session.id)


def _session_of(record: KeyValue) -> str:
    try:
        return decode(record.value, Alive, key=record.key).session
    except UndecodableValue:
        return "(unreadable)"
