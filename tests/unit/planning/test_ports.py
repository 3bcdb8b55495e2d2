from __future__ import annotations

from orbitcontrol.planning.ports import PortRange, marked, pick_port

RANGE = PortRange(20000, 20003)


def test_ports_that_were_never_used_come_first_from_the_lowest() -> None:
    assert pick_port(RANGE, used=(), ledger={20000: 5.0}) == 20001


def test_of_used_ports_the_one_whose_use_is_longest_ago_is_picked() -> None:
    ledger = {20000: 4.0, 20001: 2.0, 20002: 1.0, 20003: 3.0}
    assert pick_port(RANGE, used={20002}, ledger=ledger) == 20001


def test_a_full_range_has_no_port_left() -> None:
    assert pick_port(RANGE, used={20000, 20001, 20002, 20003}, ledger={}) is None


def test_a_port_just_marked_is_the_last_to_be_picked_again() -> None:
    ledger = marked({}, {20000}, within=RANGE, now=9.0)
    picked: list[int] = []
    for _ in range(4):
        port = pick_port(RANGE, used=picked, ledger=ledger)
        assert port is not None
        picked.append(port)
    assert picked == [20001, 20002, 20003, 20000]


def test_ports_outside_the_range_leave_no_mark_and_old_ones_are_dropped() -> None:
    assert marked({80: 1.0, 20001: 1.0}, {443, 20002}, within=RANGE, now=2.0) == {20001: 1.0, 20002: 2.0}
