"""A store with a service on some machines, and the hand of the daemons: what they would write."""

from __future__ import annotations

import itertools
from typing import Any

from msgspec import structs

from orbitcontrol.codec.keys import Keys
from orbitcontrol.codec.values import decode, encode
from orbitcontrol.model.rollouts import Outcome, Past, Rollout
from orbitcontrol.model.service import Binding, Container, Service, Update
from orbitcontrol.model.state import Alive, ConfigMeta, MachineRecord
from orbitcontrol.model.stored import Put
from orbitcontrol.ops.deployed import Act
from orbitcontrol.ops.deploying import Change, Verify, set_revision
from orbitcontrol.ops.deploying import Outcome as Done
from orbitcontrol.planning.rollout_records import past_of
from orbitcontrol.ports import Store

KEYS = Keys()
WEB = Service(name="web", container=Container(config={"Image": "web:1"}), update=Update(max_parallel="50%"))
FIRST, SECOND, THIRD, GONE, FOREIGN = (f"10.0.0.{number}" for number in range(1, 6))
GENERATION = 7
NOW = "2026-01-01T00:00:00Z"

_ids = itertools.count()


async def fill(store: Store) -> None:
    """The service bound to four machines, one of which is gone, and a machine with another tag."""
    meta = ConfigMeta(epoch="e", generation=GENERATION, imported_at="", imported_by="")
    puts = [
        Put(KEYS.meta, encode(meta)),
        Put(KEYS.service_config("web"), encode(WEB)),
        Put(KEYS.tag_config("app").start + "services/web", encode(Binding())),
    ]
    for address in (FIRST, SECOND, THIRD, GONE, FOREIGN):
        tags = ("other",) if address == FOREIGN else ("app",)
        puts.append(Put(KEYS.machine(address), encode(MachineRecord(tags=tags))))
        if address != GONE:
            puts.append(Put(KEYS.alive(address), encode(Alive(session="s"))))
    await store.commit([], puts)


def act() -> Act:
    """Somebody does something to the service, with an id of its own."""
    return Act(service="web", id=f"id-{next(_ids)}", user="u", time=NOW)


async def set_to(
    store: Store, revision: str | None, machine: str | None = None, *, verify: Verify | None = None
) -> Done:
    mine = act()
    change = Change(service="web", id=mine.id, user="u", time=NOW, revision=revision, machine=machine)
    return await set_revision(store, KEYS, change, verify=verify)


async def rollout(store: Store) -> Rollout:
    """The present one."""
    item = await store.get(KEYS.rollout("web"))
    assert item is not None
    return decode(item.value, Rollout, key=item.key)


async def becomes(store: Store, **changes: Any) -> Rollout:
    """The present rollout, as a daemon would have left it."""
    found = structs.replace(await rollout(store), **changes)
    await store.commit([], [Put(KEYS.rollout("web"), encode(found))])
    return found


async def ends(store: Store, outcome: Outcome) -> Rollout:
    """The present rollout is complete or failed, and in the history."""
    assert outcome != "superseded"
    found = await becomes(store, state=outcome)
    past = past_of(found, outcome=outcome, ended=NOW)
    await store.commit([], [Put(KEYS.past_rollout("web", found.id), encode(past))])
    return found


async def history(store: Store) -> list[Past]:
    [items] = (await store.read(KEYS.history("web"))).ranges
    return [decode(item.value, Past, key=item.key) for item in items]
