"""Which endpoints of the own machine get nothing, whatever the store says of them."""

from __future__ import annotations

import pytest
from msgspec import structs

from orbitcontrol.model.configuration import EffectiveService
from orbitcontrol.model.runs import Run, RunId, Verdict
from orbitcontrol.model.service import Service
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.fitness import Local, unfit
from orbitcontrol.planning.orphans import serving
from orbitcontrol.planning.rotation import Place, Rotation

HERE, ELSEWHERE = "10.0.0.1", "10.0.0.2"
OURS = Endpoint(id="e1", machine=HERE, session="s1")
THEIRS = Endpoint(id="e2", machine=ELSEWHERE, session="s2")
DRAINING = structs.replace(OURS, state="draining")
FIRST, SECOND = RunId("web", 1, "c1", "t1"), RunId("web", 1, "c2", "t2")
UP = Verdict(up=True, judged=True)
DOWN = Verdict(up=False, judged=True, reason="status 500")
UNDECIDED = Verdict(up=False, judged=False, reason="status 500")


def a_run(run_id: RunId = FIRST, *, port: int = 80) -> Run:
    return Run(id=run_id, effective=EffectiveService(service=Service(name="web")), host=HERE, port=port)


def local(*runs: Run, verdict: Verdict | None = UP, **fields: object) -> Local:
    values: dict[str, object] = {
        "address": HERE,
        "runs": runs,
        "verdicts": {} if verdict is None else {run.id: verdict for run in runs},
        "unseen": frozenset(),
        "stands_for": {"e1": FIRST},
        **fields,
    }
    return Local(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "known", "reason"),
    [
        ("its checks pass", local(a_run()), ""),
        ("its checks fail", local(a_run(), verdict=DOWN), "checks failed: status 500"),
        ("its checks have not decided", local(a_run(), verdict=UNDECIDED), ""),
        ("it was not asked yet", local(a_run(), verdict=None), ""),
        ("nothing runs there", local(), "nothing of it runs there any more"),
        ("its service runs at another port", local(a_run(port=81)), "nothing of it runs there any more"),
        ("its containers cannot be seen", local(unseen={"web"}), ""),
        ("nobody has looked yet", local(runs=None), ""),
        (
            "the next container is not proven",
            local(a_run(SECOND), verdict=UNDECIDED),
            "its container ended, and the next one is not proven yet",
        ),
        (
            "the next container was not asked yet",
            local(a_run(SECOND), verdict=None),
            "its container ended, and the next one is not proven yet",
        ),
        ("the next container is proven", local(a_run(SECOND)), ""),
        ("which run it stood for is forgotten", local(a_run(SECOND), verdict=None, stands_for={}), ""),
        (
            "which is forgotten, and its checks fail",
            local(a_run(SECOND), verdict=DOWN, stands_for={}),
            "checks failed: status 500",
        ),
    ],
)
def test_an_endpoint_of_this_machine_is_out_for_what_is_proven_here_and_for_nothing_else(
    case: str, known: Local, reason: str
) -> None:
    routes = {"web": {f"{HERE}:80": OURS}}
    assert unfit(routes, known) == ({Place("web", f"{HERE}:80"): reason} if reason else {}), case


def test_endpoints_of_other_machines_are_none_of_its_business() -> None:
    assert unfit({"web": {f"{HERE}:80": THEIRS}}, local()) == {}
    assert unfit({"api": {f"{HERE}:80": OURS}}, local(a_run())), "another service of its own is"


def test_what_is_unfit_gets_nothing_even_as_the_last_server() -> None:
    place = Place("web", f"{HERE}:80")
    rotation = Rotation(routes={"web": {place.address: OURS}}, unfit=frozenset({place}))
    assert serving(rotation) == {"web": {}}
    assert serving(structs.replace(rotation, orphans=frozenset({place}))) == {"web": {}}
    draining = structs.replace(rotation, routes={"web": {place.address: DRAINING}})
    assert serving(structs.replace(draining, orphans=frozenset({place}))) == {"web": {}}
