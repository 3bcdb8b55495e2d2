import pytest
from msgspec import structs

from orbitcontrol.model.configuration import Desired, EffectiveService, MachineIdentity, ProxyConfiguration
from orbitcontrol.model.service import Container, Service
from orbitcontrol.model.state import ConfigMeta
from orbitcontrol.planning.continuity import Continuation, Trust, continue_with


def service(name: str, revision: str = "R1", serial: int = 1) -> EffectiveService:
    container = Container(config={"Image": f"{name}:{revision}"})
    return EffectiveService(service=Service(name=name, container=container), revision=revision, serial=serial)


def desired(*services: EffectiveService, epoch: str = "old", generation: int = 5) -> Desired:
    return Desired(
        epoch=epoch,
        generation=generation,
        machine=MachineIdentity(address="10.0.0.5"),
        services={one.name: one for one in services},
        authoritative_names=frozenset({"web"}),
        proxy=ProxyConfiguration(tag="lb", template=epoch),
    )


def meta(epoch: str, generation: int, **continues: int) -> ConfigMeta:
    return ConfigMeta(epoch=epoch, generation=generation, imported_at="", imported_by="", continues=continues)


KNOWN = desired(service("web", "R2", serial=7), service("db"))
TRUST = Trust(base=KNOWN)


def go(trust: Trust, meta: ConfigMeta, *services: EffectiveService) -> Continuation:
    fresh = desired(*services, epoch=meta.epoch, generation=meta.generation)
    return continue_with(trust, meta, fresh)


def test_a_machine_that_knows_nothing_trusts_the_first_store_that_it_meets() -> None:
    after = go(Trust(), meta("new", 1), service("web"))
    assert after.desired.holding == ""
    assert after.trust.base == after.desired


def test_a_store_that_goes_on_is_followed_in_everything() -> None:
    after = go(TRUST, meta("old", 6), service("web", "R3", serial=8))
    assert after.desired.holding == ""
    assert set(after.desired.services) == {"web"}
    assert after.desired.services["web"].revision == "R3"
    assert after.trust == Trust(base=after.desired)


@pytest.mark.parametrize(
    ("stored", "words"),
    [(meta("new", 1), "filled anew"), (meta("new", 900), "filled anew"), (meta("old", 4), "went back")],
)
def test_a_store_that_does_not_go_on_only_adds_what_the_machine_never_knew(
    stored: ConfigMeta, words: str
) -> None:
    after = go(TRUST, stored, service("web", "1", serial=0), service("cache"))
    held = after.desired
    assert words in held.holding
    assert held.services["web"] == KNOWN.services["web"]
    assert held.services["db"] == KNOWN.services["db"]
    assert "cache" in held.services
    assert held.authoritative_names == frozenset()
    assert held.proxy == KNOWN.proxy
    assert after.trust.base == KNOWN
    reasons = {problem.subject: problem.reason for problem in held.problems}
    assert "R2 stays, the store says 1" in reasons["service web"]
    assert "does not bind it" in reasons["service db"]


def test_while_holding_a_template_is_taken_only_where_there_was_certainly_none() -> None:
    without = structs.replace(KNOWN, proxy=None)
    after = go(Trust(base=without), meta("new", 1))
    assert after.desired.proxy == desired(epoch="new").proxy
    doubtful = structs.replace(without, proxy_held=True)
    after = go(Trust(base=doubtful), meta("new", 1))
    assert after.desired.proxy is None
    assert after.desired.proxy_held


def test_a_store_that_went_back_is_not_trusted_for_a_later_import_alone() -> None:
    back = go(TRUST, meta("old", 4), service("web"))
    after = go(back.trust, meta("old", 6), service("web"))
    assert after.desired.holding
    assert set(after.desired.services) == {"web", "db"}


@pytest.mark.parametrize("stored", [meta("new", 1, old=5), meta("new", 3, old=9), meta("old", 6, old=5)])
def test_a_confirmed_store_is_trusted_again(stored: ConfigMeta) -> None:
    back = go(TRUST, meta("old", 4), service("web"))
    for trust in (TRUST, back.trust):
        after = go(trust, stored, service("web", "R2", serial=8))
        assert after.desired.holding == ""
        assert set(after.desired.services) == {"web"}
        assert after.trust == Trust(base=after.desired)


@pytest.mark.parametrize("stored", [meta("new", 1, old=4), meta("new", 1, other=9)])
def test_a_confirmation_of_something_else_confirms_nothing(stored: ConfigMeta) -> None:
    assert go(TRUST, stored, service("web")).desired.holding


def test_a_revision_that_was_lost_alone_keeps_its_service_as_it_is() -> None:
    after = go(TRUST, meta("old", 6), service("web", "R1", serial=6), service("db"))
    assert after.desired.holding == ""
    assert after.desired.services["web"].revision == "R2"
    [problem] = after.desired.problems
    assert problem.subject == "service web"
    assert (
        go(after.trust, meta("old", 6), service("web", "R3", serial=8)).desired.services["web"].revision
        == "R3"
    )


def test_holding_again_changes_nothing() -> None:
    once = go(TRUST, meta("new", 1), service("web", "1", serial=0), service("cache"))
    again = go(once.trust, meta("new", 1), service("web", "1", serial=0), service("cache"))
    assert again == once
    assert structs.replace(again.desired, problems=()) == structs.replace(once.desired, problems=())


def test_what_is_missing_without_an_import_stays_and_is_told() -> None:
    fresh = structs.replace(desired(service("web", "R3", serial=8)), proxy=None)
    after = continue_with(TRUST, meta("old", 5), fresh)
    assert after.desired.services["db"] == KNOWN.services["db"]
    assert after.desired.services["web"].revision == "R3"
    assert after.desired.proxy == KNOWN.proxy
    told = {problem.subject: problem.reason for problem in after.desired.problems}
    assert set(told) == {"service db", "template"}
    assert all("run orbitctl import" in reason for reason in told.values())

    again = continue_with(after.trust, meta("old", 5), fresh)
    assert again == after
    imported = continue_with(after.trust, meta("old", 6), structs.replace(fresh, generation=6))
    assert set(imported.desired.services) == {"web"}
    assert imported.desired.proxy is None


def test_a_service_that_was_held_stays_held_while_its_binding_is_missing() -> None:
    trust = Trust(base=structs.replace(KNOWN, held=frozenset({"cache"})))
    after = go(trust, meta("old", 5), *KNOWN.services.values())
    assert after.desired.held == {"cache"}


def test_a_machine_that_was_given_other_tags_misses_nothing_of_its_old_ones() -> None:
    fresh = structs.replace(desired(), machine=MachineIdentity(address="10.0.0.5", tags=("other",)))
    after = continue_with(TRUST, meta("old", 5), fresh)
    assert after.desired.services == {}
    assert after.desired.problems == ()
