import pytest

from orbitcontrol.model.durations import Duration


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("250us", 0.00025),
        ("500ms", 0.5),
        ("10s", 10),
        ("2m", 120),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("0s", 0),
        (300, 0.3),
        (0, 0),
    ],
)
def test_a_duration_is_read_as_go_writes_it_and_plain_numbers_are_milliseconds(
    written: str | int, seconds: float
) -> None:
    assert Duration.parse(written) == pytest.approx(seconds)


@pytest.mark.parametrize("written", ["", "10", "s", "10 s", "-5s", "5x", "1s2", -1, True])
def test_anything_else_is_refused(written: str | int) -> None:
    with pytest.raises(ValueError, match="duration"):
        Duration.parse(written)


@pytest.mark.parametrize("written", ["500ms", "10s", "2m", "1.5s", "90s"])
def test_a_printed_duration_reads_back_as_the_same(written: str) -> None:
    duration = Duration.parse(written)
    assert Duration.parse(str(duration)) == duration
