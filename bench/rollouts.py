"""Rollouts in the lab: requests that fail, how long they take, and what befalls daemons meanwhile.

Hosts with engines and daemons of their own, three members of etcd, and clients that send a mixed load: half
on new connections, half on kept ones, 3 of 10 a POST, a third answered in 2 s. The templates have neither
retries nor redispatch. Where others work on the machine, the lab goes before them.

``ROWS=one,two`` in the environment runs some of the rows; their names are those of the functions.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median

from lab import faults
from lab.cluster import Lab
from lab.hosts import Host
from lab.images import REVISIONS
from lab.leftovers import processes_naming
from lab.load import Report
from lab.rollouts import (
    Reader,
    Trouble,
    begin,
    quick_config,
    rolled_out,
    serving,
    serving_quickly,
)
from lab.witness import Witness
from orbitcontrol.docker.runtime import DockerRuntime
from orbitcontrol.model.containers import ContainerSpec
from support.machine import eventually

ROLLOUTS = 20
HEEDLESS = 2
RATE = 200
ALONE = {200: 5, 1000: 5}
TIMED = 7
KILLS, KILLS_EACH, FREEZES, WITHIN, FROZEN = 50, 5, 5, 10.0, 8.0
DEADLINE = 10.0
SEED = int.from_bytes(os.urandom(4))

GOOD = [each.name for each in REVISIONS if each.behaviour == "good"]


def say(text: str) -> None:
    print(text, flush=True)


def loads() -> str:
    """How busy the machine is."""
    return f"load of the machine {os.getloadavg()[0]:.1f}"


def told(report: Report) -> str:
    """Failures and retries of a load."""
    kinds = Counter(each.kind for each in report.failures)
    posts = sum(each.request.method == "POST" for each in report.retries)
    return (
        f"{len(report.failures)} of {report.summary.sent} failed {dict(kinds) or ''}, "
        f"{len(report.retries)} tried again ({posts} POSTs), {report.rate:.0f} requests/s"
        f"{'' if report.is_sound else ', clients too slow'}"
    )


def spread(seconds: list[float]) -> str:
    """Median and extremes."""
    return f"median {median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}) of {len(seconds)}"


def put_first(lab: Lab) -> None:
    """What runs in the lab, and this, goes before others' work on the machine: sched(7), "autogroup"."""
    with suppress(OSError):  # where cgroups are of the second version containers get no more than others
        Path(f"/sys/fs/cgroup/cpu/{lab.name}/cpu.shares").write_text("30000")
    for process in ("self", *(pid for pid, _ in processes_naming(lab.name))):
        with suppress(OSError):
            Path(f"/proc/{process}/autogroup").write_text("-15")


@contextmanager
def three() -> Iterator[Lab]:
    """Three hosts, of which two balance."""
    with Lab(hosts=3, balancers=2) as lab:
        yield lab


@contextmanager
def alone() -> Iterator[Lab]:
    """One host, which balances, too."""
    with Lab(hosts=1, balancers=1) as lab:
        yield lab


def mixed_load() -> None:
    """3 machines, 2 load balancers: rollouts under load; then without the drain."""
    with three() as lab:
        serving(lab, REVISIONS[0])
        put_first(lab)
        with Witness(lab.cluster) as witness, lab.load(rate=RATE) as load:
            for number in range(1, ROLLOUTS + 1):
                rolled_out(lab, GOOD[number % len(GOOD)])
                time.sleep(0.5)
        took = [one.took for one in witness.courses.values()]
        say(f"{len(took)} rollouts of 3 machines, 2 balancers: {told(load.report)} (to reach: 0, 0 POSTs)")
        say(f"  {spread(took)}; at most {witness.most_lacking} machine out; {loads()}")
        with ExitStack() as stack, lab.load(rate=RATE) as load:
            for host in lab.hosts:
                stack.enter_context(faults.heedless(host))
            lab.wait_until_ready()
            for number in range(1, HEEDLESS + 1):
                rolled_out(lab, GOOD[(ROLLOUTS + number) % len(GOOD)])
        say(f"  the same without the drain, {HEEDLESS} rollouts: {told(load.report)} (must fail)")


def one_machine() -> None:
    """1 machine, 1 instance, start-first, under two loads."""
    with alone() as lab:
        serving(lab, REVISIONS[0], Order="start-first")
        put_first(lab)
        number = 0
        for rate, times in ALONE.items():
            with lab.load(rate=rate) as load:
                for _ in range(times):
                    number += 1
                    rolled_out(lab, GOOD[number % len(GOOD)])
                    time.sleep(0.5)
            say(f"{times} rollouts of 1 machine, start-first: {told(load.report)} (to reach: 0); {loads()}")


def three_in_turn() -> None:
    """How long three replicas take one after the other, and what of it is Docker's."""
    with three() as lab:
        serving_quickly(lab, "Q1", "Q2")
        put_first(lab)
        took, whole, docker = list[float](), list[float](), list[float]()
        with Witness(lab.cluster) as witness:
            for number in range(1, TIMED + 1):
                docker.append(sum(asyncio.run(docker_alone(host)) for host in lab.hosts))
                before, began = witness.newest, time.monotonic()
                rolled_out(lab, ("Q1", "Q2")[number % 2])
                whole.append(time.monotonic() - began)
                course = eventually(lambda: witness.ended(before), what="the rollout ends")  # noqa: B023
                assert course is not None
                took.append(course.took)
        say(f"3 replicas in turn, from the order to the end: {spread(took)} (to reach: 4 s); {loads()}")
        say(f"  of it Docker's own, the same calls alone: {spread(docker)}")
        ours = [one - other for one, other in zip(took, docker, strict=True)]
        say(f"  what is left for Orbit: {spread(ours)}; the whole command: {spread(whole)}")


def one_replica() -> None:
    """How long a single replica takes, start-first, until its new revision answers for the first time."""
    with alone() as lab:
        serving_quickly(lab, "Q1", "Q2", Order="start-first")
        put_first(lab)
        took, whole, docker = list[float](), list[float](), list[float]()
        for number in range(1, TIMED + 1):
            docker.append(asyncio.run(docker_alone(lab.hosts[0], only_start=True)))
            revision = ("Q1", "Q2")[number % 2]
            with Witness(lab.cluster) as witness, Reader(lab.targets[0]) as reader:
                began = time.monotonic()
                rolled_out(lab, revision)
                eventually(lambda: f"lab-quick:{revision}" in reader.first, what="it answers")  # noqa: B023
            course, first = witness.newest, reader.first[f"lab-quick:{revision}"]
            assert course is not None
            assert "" not in reader.first, "a request failed"
            took.append(first - course.began)
            whole.append(first - began)
        say(f"1 replica, start-first, from the order to its first answer: {spread(took)} (to reach: 1.5 s)")
        say(f"  from the start of the command: {spread(whole)}; {loads()}")
        say(f"  of it Docker's own, create and start alone: {spread(docker)}")


async def docker_alone(host: Host, *, only_start: bool = False) -> float:
    """What a replacement asks of Docker, with nobody else asking: seconds."""
    runtime = DockerRuntime(host.engine.host)
    try:
        old = await _started(runtime, "alone-old", port=29998)
        began = time.monotonic()
        if not only_start:
            await runtime.rename(old, "alone-kept")
            await runtime.stop(old, grace=1)
        new = await _started(runtime, "alone-new", port=29999)
        if not only_start:
            await runtime.remove(old)
        took = time.monotonic() - began
        for container in (old, new):
            await runtime.stop(container, grace=1)
            with suppress(Exception):
                await runtime.remove(container)
        return took
    finally:
        await runtime.close()


async def _started(runtime: DockerRuntime, name: str, *, port: int) -> str:
    bound = {"PortBindings": {"8080/tcp": [{"HostPort": str(port)}]}}
    body = {**quick_config("Q1"), "ExposedPorts": {"8080/tcp": {}}, "HostConfig": bound}
    container = await runtime.create(ContainerSpec(name=name, image=body["Image"], body=body))
    await runtime.start(container)
    return container


def bad_revisions() -> None:
    """Revisions that are no good: requests meanwhile, and when the old one is back everywhere."""
    with three() as lab:
        serving(lab, REVISIONS[0], HealthyDeadline=f"{DEADLINE:g}s")
        put_first(lab)
        for revision in ("unhealthy", "exits"):
            with Witness(lab.cluster) as witness, lab.load(rate=RATE) as load:
                ran = begin(lab, revision)
                eventually(lambda: len(witness.courses) > 1, what="it goes back")
                back = eventually(lambda: witness.ended(None), what="it has gone back")
            first = next(iter(witness.courses.values()))
            assert back is not None
            assert witness.whole_since is not None
            say(
                f"bad revision ({revision}), exit code {ran.code}: {told(load.report)} (to reach: 0); "
                f"the old one is everywhere again {witness.whole_since - first.began:.1f} s after the order "
                f"(to reach: {DEADLINE + 5:g}), the way back complete after {back.ended_after(first):.1f} s; "
                f"{loads()}"
            )
            say(f"  answers by revision: {load.report.summary.answers}")


def killed_daemons() -> None:
    """Daemons that are killed and frozen at random moments of rollouts."""
    with three() as lab:
        serving(lab, REVISIONS[0])
        put_first(lab)
        number = 0
        with Witness(lab.cluster) as witness, lab.load(rate=RATE) as load:
            trouble = Trouble(lab, witness, seed=SEED)
            while trouble.kills < KILLS or trouble.freezes < FREEZES:
                number += 1
                freeze = FROZEN if trouble.freezes < FREEZES else 0.0
                left = min(KILLS_EACH, KILLS - trouble.kills)
                trouble.befall(GOOD[number % len(GOOD)], kills=left, within=WITHIN, freeze=freeze)
                lab.wait_until_ready()
        ends = Counter(one.state for one in witness.courses.values())
        say(
            f"{trouble.kills} kills and {trouble.freezes} freezes in {number} rollouts (seed {SEED}): "
            f"{told(load.report)} (to reach: 0); ends: {dict(ends)}; {loads()}"
        )
        say(f"  at most {witness.most_holding} taken out at once; too far: {witness.overstepped or 'nobody'}")
        say(f"  at most {witness.most_lacking} without an endpoint, those with a dead daemon counted")
        for each in trouble.waits:
            say(f"  {each}")


ROWS: tuple[Callable[[], None], ...] = (
    mixed_load,
    one_machine,
    three_in_turn,
    one_replica,
    bad_revisions,
    killed_daemons,
)


def main() -> None:
    wanted = os.environ.get("ROWS", "").split(",") if os.environ.get("ROWS") else []
    for row in ROWS:
        if not wanted or row.__name__ in wanted:
            row()


if __name__ == "__main__":
    main()
