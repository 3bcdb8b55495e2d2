from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec import structs

from orbitcontrol.model.configuration import EffectiveService
from orbitcontrol.model.service import Service
from support.containers import ADDRESS, PORTS, Machine, eventually, page, process, web
from support.docker import Engine, way_to

pytestmark = pytest.mark.integration

PORT = 23399


def started_at(engine: Engine, container: str) -> str:
    return engine.inspect(container, "{{.Id}} {{.State.StartedAt}}")


async def test_a_wanted_service_runs_and_answers_on_its_port(machine: Machine, image: str) -> None:
    machine.want(web("web", image, endpoint_port=PORT))
    [run] = await machine.runs(1)
    assert (run.host, run.port, run.revision) == (ADDRESS, PORT, "1")
    assert await page(run) == "orbit-test/web:1"


async def test_nothing_known_means_nothing_done(machine: Machine, engine: Engine, image: str) -> None:
    machine.want(web("web", image, endpoint_port=PORT))
    await machine.runs(1)
    await machine.stop()
    machine.board.desired.set(None)
    before = started_at(engine, "web")
    await machine.start()
    await asyncio.to_thread(engine.docker, "run", "--detach", "--name", "stranger", image, "sleep", "60")
    await machine.settle()
    assert machine.board.runs.value is None
    assert started_at(engine, "web") == before


async def test_a_killed_container_loses_its_run_at_once_and_is_replaced(
    machine: Machine, engine: Engine, image: str
) -> None:
    machine.want(web("web", image, endpoint_port=PORT))
    [before] = await machine.runs(1)
    withdrawn = asyncio.create_task(
        machine.until(machine.board.published, lambda published: before.id not in published, "withdrawn")
    )
    await asyncio.to_thread(engine.docker, "kill", "web")
    assert await withdrawn == frozenset()
    [after] = await machine.runs(1)
    assert after.id.container_id != before.id.container_id
    assert await page(after) == "orbit-test/web:1"


async def test_a_crash_loop_is_restarted_at_once_and_then_with_growing_pauses(
    machine: Machine, engine: Engine, image: str
) -> None:
    machine.want(process("task", image, ["false"]))
    reason = await machine.reported("task", "backoff")
    assert "exit code 1" in reason
    starts = await _starts(engine, count=4)
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert gaps[1] >= 1.0
    assert gaps[2] >= 2.0
    assert "exit code 1" in await machine.problem("service task")


async def test_a_crash_loop_is_reported_with_exit_code_and_the_end_of_the_log_and_delays_nobody(
    machine: Machine, image: str
) -> None:
    script = r"printf 'starting\n\033[31mno database\033[0m\n'; exit 3"
    machine.want(process("task", image, ["sh", "-c", script]), web("web", image, endpoint_port=PORT))
    reason = "its container ended with exit code 3; its log ends: starting | no database"
    await machine.until(
        machine.board.instances,
        lambda reports: any((one.state, one.reason) == ("backoff", reason) for one in reports),
        reason,
    )
    await machine.until(
        machine.board.problems.cell,
        lambda found: any((one.subject, one.reason) == ("service task", reason) for one in found),
        reason,
    )
    [run] = [run for run in await machine.runs(1) if run.id.service == "web"]
    assert await page(run) == "orbit-test/web:1"


async def test_of_a_crashed_containers_log_only_a_little_is_told(machine: Machine, image: str) -> None:
    script = "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo -n 0123456789; done; echo; echo end; exit 1"
    machine.want(process("task", image, ["sh", "-c", script]))
    await machine.until(
        machine.board.instances,
        lambda reports: any("its log ends" in one.reason for one in reports),
        "the log is told",
    )
    [report] = machine.board.instances.value
    assert report.reason.endswith("89 | end")
    assert len(report.reason) < 2100


async def test_a_daemon_that_comes_back_adopts_what_runs(
    machine: Machine, engine: Engine, image: str
) -> None:
    machine.want(web("web", image, instances=2), web("other", image, endpoint_port=PORT))
    before = await machine.runs(3)
    await machine.stop()
    containers = {name: started_at(engine, name) for name in engine.names()}
    await machine.start()
    assert await machine.runs(3) == before
    await machine.settle()
    assert {name: started_at(engine, name) for name in engine.names()} == containers


async def test_instances_get_ports_of_their_own_and_a_new_one_not_the_old_port_again(
    machine: Machine, engine: Engine, image: str
) -> None:
    machine.want(web("web", image, instances=2))
    one, two = await machine.runs(2)
    assert engine.names() == {"web-1", "web-2"}
    assert one.port != two.port
    assert one.port in PORTS
    assert two.port in PORTS
    assert await page(one) == await page(two) == "orbit-test/web:1"
    await asyncio.to_thread(engine.docker, "kill", "web-1")
    await machine.until(machine.board.published, lambda published: one.id not in published, "withdrawn")
    new, _ = await machine.runs(2)
    assert new.port not in {one.port, two.port}


async def test_the_ports_last_used_are_remembered_over_a_restart_of_the_daemon(
    machine: Machine, engine: Engine, image: str
) -> None:
    machine.want(web("web", image))
    [before] = await machine.runs(1)
    await machine.stop()
    engine.docker("rm", "--force", "web")
    await machine.start()
    [after] = await machine.runs(1)
    assert after.port != before.port


async def test_a_port_that_a_stranger_holds_is_passed_over(machine: Machine, image: str) -> None:
    with _listening(PORTS.first):
        machine.want(web("web", image))
        [run] = await machine.runs(1)
    assert run.port == PORTS.first + 1


async def test_a_fixed_port_that_a_stranger_holds_is_reported_and_taken_when_free(
    machine: Machine, image: str
) -> None:
    with _listening(PORT):
        machine.want(web("web", image, endpoint_port=PORT))
        assert str(PORT) in await machine.reported("web", "failed")
    await machine.runs(1)


async def test_a_new_revision_replaces_instances_one_after_the_other_once_withdrawn(
    machine: Machine, engine: Engine, image: str, image2: str
) -> None:
    machine.want(web("web", image, instances=2))
    old = {run.id for run in await machine.runs(2)}
    seen = machine.record(machine.board.published)
    machine.want(web("web", image2, instances=2))
    await machine.until(
        machine.board.published, lambda published: len(published) == 2 and not published & old, "replaced"
    )
    assert min(len(published) for published in seen) == 1, "at most one instance is out at a time"
    runs = await machine.runs(2)
    assert [await page(run) for run in runs] == ["orbit-test/web:2"] * 2
    assert {run.revision for run in runs} == {"2"}
    assert engine.names() == {"web-1", "web-2"}


async def test_a_container_is_not_stopped_before_its_endpoint_is_withdrawn(
    machine: Machine, engine: Engine, image: str, image2: str
) -> None:
    machine.want(web("web", image, endpoint_port=PORT))
    await machine.runs(1)
    before = started_at(engine, "web")
    machine.publishes = False  # the store takes nothing any more
    machine.want(web("web", image2, endpoint_port=PORT))
    draining = machine.board.rollouts.directives
    await machine.until(draining, lambda found: found is not None and bool(found.runs), "to be marked")
    await machine.settle()
    assert started_at(engine, "web") == before
    machine.publishes = True
    machine.recheck()
    await machine.until(
        machine.board.runs, lambda runs: [run.revision for run in runs or ()] == ["2"], "replaced"
    )


async def test_a_daemon_stops_nothing_before_it_knows_what_is_published(
    machine: Machine, engine: Engine, image: str, image2: str
) -> None:
    machine.want(web("web", image, endpoint_port=PORT), web("gone", image))
    await machine.runs(2)
    await machine.stop()
    containers = {name: started_at(engine, name) for name in engine.names()}
    machine.want(web("web", image2, endpoint_port=PORT))
    await machine.start(knows_published=False)
    await machine.until(machine.board.runs, lambda runs: len(runs or ()) == 1, "what is wanted is seen")
    await machine.settle()
    assert {name: started_at(engine, name) for name in engine.names()} == containers
    machine.tell_published()
    await machine.until(
        machine.board.runs, lambda runs: [run.revision for run in runs or ()] == ["2"], "replaced"
    )


async def test_a_revision_that_never_becomes_healthy_takes_out_one_instance_only(
    machine: Machine, engine: Engine, image: str, image2: str
) -> None:
    machine.judge = lambda run: run.revision != "2"
    machine.want(web("web", image, instances=2))
    await machine.runs(2)
    machine.want(web("web", image2, instances=2))
    await machine.until(
        machine.board.runs, lambda runs: "2" in {run.revision for run in runs or ()}, "one replaced"
    )
    await machine.settle()
    assert sorted(run.revision for run in machine.board.runs.value or ()) == ["1", "2"]
    machine.want(web("web", image, instances=2))
    await machine.until(machine.board.published, lambda published: len(published) == 2, "both serve again")


async def test_a_missing_image_is_reported_while_other_services_start(machine: Machine, image: str) -> None:
    machine.want(
        process("broken", f"{ADDRESS}:1/no/such:image", ["true"]), web("web", image, endpoint_port=PORT)
    )
    [run] = await machine.runs(1)
    assert run.id.service == "web"
    assert f"{ADDRESS}:1/no/such:image" in await machine.reported("broken", "failed")
    assert "pull" in await machine.problem("service broken")


async def test_an_image_that_appears_later_starts_without_being_asked(
    machine: Machine, engine: Engine
) -> None:
    machine.want(web("late", "orbit-test/late:1", endpoint_port=PORT))
    await machine.reported("late", "failed")
    engine.image("orbit-test/late:1")
    [run] = await machine.runs(1)
    assert await page(run) == "orbit-test/late:1"
    engine.remove_image("orbit-test/late:1")


async def test_a_service_that_is_no_longer_bound_is_withdrawn_and_removed(
    machine: Machine, engine: Engine, image: str
) -> None:
    machine.want(web("web", image, endpoint_port=PORT), web("gone", image))
    await machine.runs(2)
    machine.want(web("web", image, endpoint_port=PORT))
    [run] = await machine.runs(1)
    assert run.id.service == "web"
    await eventually(lambda: engine.names() == {"web"}, "removed")


async def test_fewer_instances_remove_the_last_ones_and_the_one_that_is_left_gets_its_name(
    machine: Machine, engine: Engine, image: str
) -> None:
    machine.want(web("web", image, instances=3))
    first, _, _ = await machine.runs(3)
    machine.want(web("web", image, instances=1))
    assert await machine.runs(1) == (structs.replace(first, effective=web("web", image, instances=1)),)
    await eventually(lambda: engine.names() == {"web"}, "removed")


async def test_more_instances_leave_those_that_run_alone(
    machine: Machine, engine: Engine, image: str
) -> None:
    machine.want(web("web", image, instances=2))
    before = {run.id for run in await machine.runs(2)}
    containers = {name: started_at(engine, name) for name in engine.names()}
    machine.want(web("web", image, instances=4))
    after = await machine.runs(4)
    assert before <= {run.id for run in after}
    assert containers.items() <= {name: started_at(engine, name) for name in engine.names()}.items()
    assert len({run.port for run in after}) == 4


@pytest.mark.parametrize("state", ["created", "exited", "withdrawn"])
async def test_a_replacement_that_a_daemons_end_interrupted_is_finished_by_the_next_one(
    machine: Machine, engine: Engine, image: str, image2: str, state: str
) -> None:
    machine.want(web("web", image, endpoint_port=PORT))
    await machine.runs(1)
    machine.want(web("web", image2, endpoint_port=PORT))
    await machine.until(machine.board.published, lambda published: not published, "withdrawn")
    await machine.stop()
    if state != "withdrawn":
        engine.docker("rm", "--force", "web")
        machine.want(web("web", image if state == "exited" else image2, endpoint_port=PORT))
        await machine.start()
        await machine.runs(1)
        await machine.stop()
        if state == "exited":
            engine.docker("kill", "web")
        else:
            _never_started(engine, "web")
    machine.want(web("web", image2, endpoint_port=PORT))
    await machine.start()
    await machine.until(
        machine.board.runs, lambda runs: [run.revision for run in runs or ()] == ["2"], "replaced"
    )
    [run] = await machine.runs(1)
    assert await page(run) == "orbit-test/web:2"
    await eventually(lambda: engine.names() == {"web"}, "nothing left over")
    await machine.settle()
    assert machine.board.runs.value == (run,)


async def test_containers_of_a_held_service_stay_as_they_are(
    machine: Machine, engine: Engine, image: str
) -> None:
    machine.want(web("web", image, endpoint_port=PORT))
    [run] = await machine.runs(1)
    before = started_at(engine, "web")
    machine.want(held=frozenset({"web"}))
    await machine.reported("web", "held")
    await machine.settle()
    assert started_at(engine, "web") == before
    assert machine.board.runs.value == (run,)
    await machine.stop()
    await machine.start()
    await machine.reported("web", "held")
    await machine.settle()
    assert started_at(engine, "web") == before
    assert machine.board.unseen.value == {"web"}


async def test_a_strangers_container_of_the_same_name_is_left_alone(
    machine: Machine, engine: Engine, image: str
) -> None:
    engine.docker("run", "--detach", "--name", "web", image, "sleep", "600")
    before = started_at(engine, "web")
    machine.want(web("web", image, endpoint_port=PORT), web("other", image))
    await machine.runs(1)
    assert "not created by Orbit" in await machine.reported("web", "blocked")
    assert "docker rename web" in await machine.problem("service web")
    assert started_at(engine, "web") == before
    engine.docker("rename", "web", "web-of-somebody")
    await machine.runs(2)
    assert engine.names() == {"web", "web-of-somebody", "other"}


async def test_without_docker_the_other_services_run_and_the_rest_is_reported(
    machine: Machine, image: str
) -> None:
    await machine.stop()
    machine.host = "unix:///nonexistent/docker.sock"
    await machine.start()
    machine.want(web("web", image), _process_of_somebody("db", 5432))
    [run] = await machine.runs(1)
    assert (run.id.service, run.host, run.port) == ("db", ADDRESS, 5432)
    assert "--docker-host" in await machine.problem("docker")
    assert machine.board.unseen.value == {"web"}


async def test_runs_stay_while_docker_is_silent_and_are_looked_at_when_it_answers_again(
    machine: Machine, engine: Engine, image: str, tmp_path: Path
) -> None:
    await machine.stop()
    async with way_to(engine, tmp_path / "docker.sock") as way:
        machine.host = f"unix://{tmp_path / 'docker.sock'}"
        await machine.start()
        machine.want(web("web", image, endpoint_port=PORT))
        [before] = await machine.runs(1)
        way.block()
        assert "docker.sock" in await machine.problem("docker")
        await asyncio.to_thread(engine.docker, "kill", "web")
        await machine.settle()
        assert machine.board.runs.value == (before,)
        assert machine.board.unseen.value == frozenset()
        way.unblock()
        await machine.until(machine.board.published, lambda published: before.id not in published, "seen")
        await machine.runs(1)
        await machine.until(machine.board.problems.cell, lambda problems: not problems, "no problem")
        await machine.stop()


async def test_host_networking_answers_on_the_port_that_the_service_names(
    machine: Machine, image: str
) -> None:
    command = ["httpd", "-f", "-p", f"{ADDRESS}:{PORT}", "-h", "/www"]
    machine.want(process("net", image, command, endpoint_port=PORT, host_config={"NetworkMode": "host"}))
    [run] = await machine.runs(1)
    assert run.port == PORT
    assert await page(run) == "orbit-test/web:1"


async def test_a_worker_runs_without_a_port(machine: Machine, image: str) -> None:
    machine.want(process("worker", image, ["sleep", "600"]))
    runs = await machine.until(machine.board.runs, bool, "a run")
    assert [run.port for run in runs or ()] == [0]
    await machine.reported("worker", "running")


async def test_a_restart_policy_does_not_come_between(machine: Machine, engine: Engine, image: str) -> None:
    machine.want(process("task", image, ["sleep", "600"], host_config={"RestartPolicy": {"Name": "always"}}))
    await machine.reported("task", "running")
    assert engine.inspect("task", "{{.HostConfig.RestartPolicy.Name}}") in {"", "no"}
    assert engine.inspect("task", "{{.HostConfig.LogConfig.Config}}") == "map[max-file:3 max-size:10m]"


async def test_a_container_that_was_created_but_never_started_is_made_anew(
    machine: Machine, engine: Engine, image: str
) -> None:
    machine.want(web("web", image, endpoint_port=PORT))
    [run] = await machine.runs(1)
    await machine.stop()
    labels = engine.inspect("web", "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}").split()
    engine.docker("rm", "--force", "web")
    engine.docker("create", "--name", "web", *(f"--label={label}" for label in labels), image, "true")
    await machine.start()
    [new] = await machine.runs(1)
    assert new.id != run.id
    assert await page(new) == "orbit-test/web:1"


async def _starts(engine: Engine, *, count: int) -> list[float]:
    """When containers were started, in seconds, from the engine's own events."""
    command = ["docker", "-H", engine.host, "events", "--since", "10m", "--filter", "container=task"]
    command += ["--filter", "event=start", "--format", "{{.TimeNano}}"]
    events = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert events.stdout is not None
    try:
        return [int(await events.stdout.readline()) / 1e9 for _ in range(count)]
    finally:
        events.kill()
        await events.communicate()


def _never_started(engine: Engine, name: str) -> None:
    """Puts a container that was made alike, and was not started yet, in the place of this one."""
    labels = json.loads(engine.inspect(name, "{{json .Config.Labels}}"))
    image = engine.inspect(name, "{{.Config.Image}}")
    engine.docker("rm", "--force", name)
    options = [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]
    engine.docker("create", "--name", name, *options, image, "true")


@contextmanager
def _listening(port: int) -> Iterator[None]:
    with socket.create_server((ADDRESS, port)):
        yield


def _process_of_somebody(name: str, port: int) -> EffectiveService:
    return EffectiveService(service=Service(name=name, endpoint_port=port))
