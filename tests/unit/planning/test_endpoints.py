from collections.abc import Callable, Mapping
from itertools import count

from msgspec import structs

from orbitcontrol.model.configuration import Desired, EffectiveService, MachineIdentity
from orbitcontrol.model.runs import Run, RunId, Verdict
from orbitcontrol.model.service import Service
from orbitcontrol.model.state import InstanceReport
from orbitcontrol.planning.endpoints import (
    Action,
    Address,
    Publish,
    Published,
    Publisher,
    Sight,
    Withdraw,
    all_judged,
    plan_endpoints,
)
from orbitcontrol.planning.rollout_steps import Directive

UP = Verdict(up=True, judged=True)
DOWN = Verdict(up=False, judged=True, reason="refused")
UNDECIDED = Verdict(up=False, judged=False)
ME = Publisher("10.0.0.5", "s1", "eu-1a")


def web(container: str = "c1", *, port: int = 3500, instance: int = 1) -> Run:
    effective = EffectiveService(service=Service(name="web", endpoint_port=3500, attributes={"weight": "5"}))
    return Run(
        id=RunId("web", instance, container, "t0"),
        effective=effective,
        host="10.0.0.5",
        port=port,
        revision="R1",
    )


def ids() -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"id{next(numbers)}"


def plan(
    runs: list[Run],
    verdicts: Mapping[RunId, Verdict],
    *,
    published: Mapping[Address, Published] | None = None,
    directives: Mapping[RunId, Directive] | None = None,
    unseen: frozenset[str] = frozenset(),
    seen: frozenset[RunId] = frozenset(),
) -> tuple[Action, ...]:
    return plan_endpoints(
        publisher=ME,
        sight=Sight(runs=runs, verdicts=verdicts, directives=directives, unseen=unseen, seen=seen),
        published=published or {},
        new_id=ids(),
    )


def published_by(actions: tuple[Action, ...]) -> dict[Address, Published]:
    return {action.address: action.published for action in actions if isinstance(action, Publish)}


def test_a_proven_run_is_published_with_all_that_templates_may_ask_for() -> None:
    run = web()
    [action] = plan([run], {run.id: UP})
    assert isinstance(action, Publish)
    assert action.address == Address("web", "10.0.0.5:3500")
    endpoint = action.published.endpoint
    assert (endpoint.machine, endpoint.session, endpoint.revision) == ("10.0.0.5", "s1", "R1")
    assert (endpoint.availability_zone, endpoint.attributes) == ("eu-1a", {"weight": "5"})


def test_a_run_that_is_not_proven_is_not_mentioned() -> None:
    run = web()
    assert plan([run], {}) == ()
    assert plan([run], {run.id: UNDECIDED}) == ()
    assert plan([run], {run.id: DOWN}) == ()


def test_a_worker_is_never_published() -> None:
    run = web(port=0)
    assert plan([run], {run.id: UP}) == ()


def test_planning_again_after_applying_plans_nothing() -> None:
    run = web()
    done = published_by(plan([run], {run.id: UP}))
    assert plan([run], {run.id: UP}, published=done) == ()


def test_a_failed_check_and_an_ended_container_each_withdraw_with_their_reason() -> None:
    run = web()
    done = published_by(plan([run], {run.id: UP}))
    address = Address("web", "10.0.0.5:3500")
    assert plan([run], {run.id: DOWN}, published=done) == (
        Withdraw(address, "checks failed: refused", failed=True),
    )
    assert plan([], {}, published=done) == (Withdraw(address, "its container ended"),)


def test_what_drains_keeps_its_identity_and_asks_for_confirmation() -> None:
    run = web()
    done = published_by(plan([run], {run.id: UP}))
    [action] = plan([run], {run.id: UP}, published=done, directives={run.id: "drain"})
    assert isinstance(action, Publish)
    before, after = done[action.address].endpoint, action.published.endpoint
    assert after == structs.replace(before, state="draining", ack=True)


def test_what_returns_from_a_drain_is_another_publication() -> None:
    run = web()
    done = published_by(plan([run], {run.id: UP}))
    drained = published_by(plan([run], {run.id: UP}, published=done, directives={run.id: "drain"}))
    actions = plan_endpoints(
        publisher=ME,
        sight=Sight(runs=[run], verdicts={run.id: UP}, directives={}),
        published=drained,
        new_id=lambda: "another",
    )
    [endpoint] = [one.endpoint for one in published_by(actions).values()]
    assert (endpoint.state, endpoint.ack, endpoint.id) == ("up", False, "another")


def test_a_run_that_is_held_back_is_not_published_and_one_that_is_exposed_asks_for_confirmation() -> None:
    run = web()
    assert plan([run], {run.id: UP}, directives={run.id: "hold"}) == ()
    [endpoint] = published_by(plan([run], {run.id: UP}, directives={run.id: "expose"})).values()
    assert (endpoint.endpoint.state, endpoint.endpoint.ack) == ("up", True)


def test_while_nothing_is_known_of_directives_a_drain_that_was_begun_goes_on() -> None:
    run = web()
    done = published_by(plan([run], {run.id: UP}))
    drained = published_by(plan([run], {run.id: UP}, published=done, directives={run.id: "drain"}))
    assert plan([run], {run.id: UP}, published=drained, directives=None) == ()


def test_a_run_of_somebody_else_is_withdrawn_when_it_is_held_back() -> None:
    run = web(container="")
    done = published_by(plan([run], {run.id: UP}))
    [action] = plan([run], {run.id: UP}, published=done, directives={run.id: "hold"})
    assert action == Withdraw(Address("web", "10.0.0.5:3500"), "the machine is to be drained")
    ours = web()
    done = published_by(plan([ours], {ours.id: UP}))
    assert plan([ours], {ours.id: UP}, published=done, directives={ours.id: "hold"}) == ()


def test_another_container_on_the_same_port_needs_its_own_proof() -> None:
    old, new = web("c1"), web("c2")
    done = published_by(plan([old], {old.id: UP}))
    [withdrawal] = plan([new], {new.id: UNDECIDED}, published=done)
    assert isinstance(withdrawal, Withdraw)


def test_another_container_that_is_proven_is_another_endpoint() -> None:
    old, new = web("c1"), web("c2")
    done = published_by(plan([old], {old.id: UP}))
    done = {
        key: structs.replace(value, endpoint=structs.replace(value.endpoint, id="old"))
        for key, value in done.items()
    }
    [action] = plan([new], {new.id: UP}, published=done)
    assert isinstance(action, Publish)
    assert action.published.endpoint.id != "old"


def test_changed_attributes_keep_the_endpoints_identity() -> None:
    run = web()
    done = published_by(plan([run], {run.id: UP}))
    service = structs.replace(run.effective.service, attributes={"weight": "9"})
    changed = structs.replace(run, effective=EffectiveService(service=service))
    [action] = plan([changed], {run.id: UP}, published=done)
    assert isinstance(action, Publish)
    assert action.published.endpoint.id == done[action.address].endpoint.id
    assert action.published.endpoint.attributes == {"weight": "9"}


def test_what_cannot_be_seen_is_not_withdrawn_but_what_was_seen_to_end_is() -> None:
    run = web()
    done = published_by(plan([run], {run.id: UP}))
    unseen = frozenset({"web"})
    assert plan([], {}, published=done, unseen=unseen) == ()
    [withdrawal] = plan([], {}, published=done, unseen=unseen, seen=frozenset({run.id}))
    assert isinstance(withdrawal, Withdraw)


def test_a_run_that_was_not_asked_yet_keeps_the_endpoint_that_was_proven_before() -> None:
    run = web()
    done = published_by(plan([run], {run.id: UP}))
    assert plan([run], {}, published=done) == ()


def test_an_endpoint_whose_run_nobody_remembers_is_withdrawn_unless_its_service_cannot_be_seen() -> None:
    run = web()
    done = {
        address: structs.replace(item, run=None)
        for address, item in published_by(plan([run], {run.id: UP})).items()
    }
    [withdrawal] = plan([run], {run.id: UNDECIDED}, published=done)
    assert isinstance(withdrawal, Withdraw)
    assert plan([], {}, published=done, unseen=frozenset({"web"})) == ()


def desired(**services: Service) -> Desired:
    return Desired(
        epoch="e",
        generation=1,
        machine=MachineIdentity(address="10.0.0.5"),
        services={name: EffectiveService(service=service) for name, service in services.items()},
    )


def judged(
    runs: list[Run],
    verdicts: Mapping[RunId, Verdict],
    *,
    published: frozenset[RunId] = frozenset(),
    instances: tuple[InstanceReport, ...] = (),
) -> bool:
    wanted = desired(web=Service(name="web", endpoint_port=3500))
    return all_judged(wanted, runs=runs, verdicts=verdicts, published=published, instances=instances)


def test_a_machine_is_registered_once_each_service_is_published_failed_or_ended() -> None:
    run = web()
    assert not judged([], {})
    assert not judged([run], {})
    assert not judged([run], {run.id: UNDECIDED})
    assert not judged([run], {run.id: UP})
    assert judged([run], {run.id: UP}, published=frozenset({run.id}))
    assert judged([run], {run.id: DOWN})
    report = InstanceReport(service="web", instance=1, state="failed")
    assert judged([], {}, instances=(report,))


def test_a_run_that_answers_elsewhere_now_moves_its_endpoint() -> None:
    run = web(container="")
    done = published_by(plan([run], {run.id: UP}))
    moved = structs.replace(run, port=3600)
    withdrawal, publication = plan([moved], {run.id: UP}, published=done)
    assert withdrawal == Withdraw(Address("web", "10.0.0.5:3500"), "its address changed")
    assert isinstance(publication, Publish)
    assert publication.address == Address("web", "10.0.0.5:3600")


def test_a_held_service_that_runs_keeps_a_machine_from_being_registered_before_it_is_published() -> None:
    run = web()
    held = structs.replace(desired(), held=frozenset({"web"}))

    def held_is_judged(verdict: Verdict, *published: RunId) -> bool:
        return all_judged(
            held, runs=[run], verdicts={run.id: verdict}, published=frozenset(published), instances=()
        )

    assert not held_is_judged(UNDECIDED)
    assert not held_is_judged(UP)
    assert held_is_judged(UP, run.id)
    assert held_is_judged(DOWN)


def test_a_flapping_instance_waits_for_its_publication_but_never_for_its_withdrawal() -> None:
    run = web()
    sight = Sight(runs=[run], verdicts={run.id: UP}, delayed=frozenset({("web", 1)}))
    assert plan_endpoints(publisher=ME, sight=sight, published={}, new_id=ids()) == ()
    done = published_by(plan([run], {run.id: UP}))
    assert plan_endpoints(publisher=ME, sight=sight, published=done, new_id=ids()) == ()
    failing = structs.replace(sight, verdicts={run.id: DOWN})
    [withdrawal] = plan_endpoints(publisher=ME, sight=failing, published=done, new_id=ids())
    assert isinstance(withdrawal, Withdraw)
