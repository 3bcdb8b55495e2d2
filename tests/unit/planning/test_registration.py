"""When a load balancer's registration may end."""

from orbitcontrol.planning.registration import still_known
from orbitcontrol.planning.servers import Place

SERVER = Place("web", "a")


def test_a_dropped_service_waits_for_all_that_knew_it_and_for_nobody_who_came_later() -> None:
    first = still_known({}, dropped={"web"}, present=frozenset({1, 2, SERVER}))
    assert first == {"web": {1, 2, SERVER}}
    second = still_known(first, dropped={"web", "api"}, present=frozenset({2, 3}))
    assert second == {"web": {2}, "api": {2, 3}}
    third = still_known(second, dropped={"web", "api"}, present=frozenset({3, 1}))
    assert third == {"web": frozenset(), "api": {3}}


def test_a_service_that_is_wanted_again_begins_anew_when_it_is_dropped_again() -> None:
    first = still_known({}, dropped={"web"}, present=frozenset({1}))
    assert still_known(first, dropped=set(), present=frozenset({1, 2})) == {}
    assert still_known({}, dropped={"web"}, present=frozenset({1, 2})) == {"web": {1, 2}}
