from orbitcontrol.planning.flapping import Flapping, publishable_at, withdrawn


def waits(*times: float) -> list[float]:
    """How long each withdrawal delays the next publication."""
    flapping, found = Flapping(last=-1000.0), []
    for now in times:
        flapping = withdrawn(flapping, now=now)
        found.append(publishable_at(flapping) - now)
    return found


def test_the_first_withdrawals_delay_nothing_and_the_next_ones_more_and_more_up_to_a_minute() -> None:
    assert waits(*range(0, 100, 10)) == [0, 0, 2, 4, 8, 16, 32, 60, 60, 60]


def test_ten_calm_minutes_forget_everything() -> None:
    assert waits(0, 10, 20, 30, 630, 640) == [0, 0, 2, 4, 0, 0]
    assert waits(0, 10, 20, 30, 629) == [0, 0, 2, 4, 8]


def test_a_thousand_withdrawals_are_still_a_minute() -> None:
    assert waits(*range(1000))[-1] == 60
