"""Rollouts in a lab: how they are begun, what befalls daemons meanwhile, and who answers."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

import pytest

from lab import faults
from lab.cluster import Lab
from lab.commands import LabError
from lab.hosts import Host
from lab.images import Revision
from lab.trees import SERVICE, tree, web
from lab.witness import Course, Witness
from orbitcontrol.codec.values import decode
from orbitcontrol.model.rollouts import Progress
from support.machine import Ran, eventually

QUICK = "lab-quick"
"""An image that starts at once, for times that are not those of a server's own start."""

_BETWEEN_REQUESTS = 0.01
_ENDS = 120.0


def begin(lab: Lab, revision: str, *, follow: bool = True) -> Ran:
    """Sets the revision, as a person does; with ``follow`` returns at the rollout's end, whatever it is."""
    following = [] if follow else ["--detach"]
    words = ("service", SERVICE, "set", "revision", revision, "--no-verify", *following)
    return lab.cluster.orbitctl(*words, code=None)


def rolled_out(lab: Lab, revision: str) -> None:
    """Sets the revision and sees every machine run it."""
    ran = begin(lab, revision)
    assert ran.code == 0, f"{revision}: ended with {ran.code}\n{ran.out}\n{ran.err}"


def serving(lab: Lab, revision: Revision, **update: Any) -> None:
    """The web service with the revision, its ``Update`` as given, imported and routed to."""
    lab.import_tree(tree(web(revision, Update={"MinHealthyTime": "0s", "StopTimeout": "1s", **update})))
    lab.wait_until_ready()
    lab.wait_until_routed()


def serving_quickly(lab: Lab, *revisions: str, **update: Any) -> None:
    """A web service whose containers start at once; all that its page says is its image."""
    for host in lab.hosts:
        for revision in revisions:
            host.engine.image(f"{QUICK}:{revision}")
    url = "http://${ENDPOINT_HOST}:${ENDPOINT_PORT}/"
    service = web(
        Revision(revisions[0]),
        Update={"MinHealthyTime": "0s", "StopTimeout": "1s", **update},
        Container={"Config": quick_config(revisions[0])},
        Checks=[{"Type": "http", "Url": url, "Interval": "500ms"}],
    )
    lab.import_tree(tree(service))
    lab.wait_until_ready()
    for target in lab.targets:
        eventually(lambda target=target: page(target) != "", what=f"{target} answers")  # type: ignore[misc]


def quick_config(revision: str) -> dict[str, Any]:
    """What a container of the quick image is made from."""
    return {
        "Image": f"{QUICK}:{revision}",
        "Cmd": ["httpd", "-f", "-p", "8080", "-h", "/www"],
        "StopSignal": "SIGKILL",  # as process 1 it ignores what it does not handle
    }


def page(target: str) -> str:
    """The page; "" when there is none."""
    connection = http.client.HTTPConnection(target, timeout=5)
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/")
        answer = connection.getresponse()
        if answer.status == 200:
            return answer.read().decode()
    connection.close()
    return ""


class Reader:
    """A context in which a page is asked for all the time: ``first`` says when each content came first."""

    def __init__(self, target: str) -> None:
        self.first: dict[str, float] = {}
        self._target = target
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_BETWEEN_REQUESTS):
            self.first.setdefault(page(self._target), time.monotonic())


class Trouble:
    """Kills and freezes daemons at moments that a seed decides; all of them run again after each rollout."""

    def __init__(self, lab: Lab, witness: Witness, *, seed: int) -> None:
        self.kills = self.freezes = 0
        self.waits: list[str] = []
        """What machines said, when a frozen daemon was thawed, of whom they wait for."""
        self._lab = lab
        self._witness = witness
        self._seed = seed
        self._random = random.Random(seed)

    def __repr__(self) -> str:
        return f"seed {self._seed}, {self.kills} kills, {self.freezes} freezes: {self.waits}"

    def befall(self, revision: str, *, kills: int, within: float, freeze: float = 0.0) -> Course:
        """A rollout with so many kills at moments ``within`` seconds, or until its end; how it went."""
        chance = self._random
        before = self._witness.newest
        begin(self._lab, revision, follow=False)
        began = time.monotonic()
        frozen: Sequence[Host] = [chance.choice(self._lab.balancers)] if freeze else []
        freezer = threading.Thread(target=self._freeze, args=(frozen, chance.uniform(0, 3), freeze))
        freezer.start()
        for moment in sorted(chance.uniform(0, within) for _ in range(kills)):
            time.sleep(max(0.0, began + moment - time.monotonic()))
            if self._witness.ended(before) is not None:
                break
            victim = chance.choice([host for host in self._lab.hosts if host not in frozen])
            victim.daemon.kill()
            self.kills += 1
            time.sleep(chance.uniform(0.05, 1.5))
            victim.daemon.start()
        freezer.join()
        try:
            ended = eventually(lambda: self._witness.ended(before), what="the rollout ends", timeout=_ENDS)
        except pytest.fail.Exception as late:
            raise LabError(f"the rollout does not end; {self}; machines say: {self.said()}") from late
        assert ended is not None
        return ended

    def said(self) -> str:
        """What machines say of where they are."""
        found = self._lab.cluster.stored(f"services/{SERVICE}/progress/")
        told = {each.key.rpartition("/")[2]: decode(each.value, Progress, key=each.key) for each in found}
        return "; ".join(f"{address} {one.step} {one.reason}".strip() for address, one in told.items())

    def _freeze(self, hosts: Sequence[Host], after: float, seconds: float) -> None:
        for host in hosts:
            time.sleep(after)
            with faults.frozen(host.daemon):
                time.sleep(seconds)
                self.waits.append(f"{host.address} frozen: {self.said()}")
            self.freezes += 1
