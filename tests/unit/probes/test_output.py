from __future__ import annotations

import errno
import socket
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbitcontrol.probes.output import MOST, Output, TooMuchOutput
from orbitcontrol.probes.reasons import failed_by_system, printable


def printed(*pieces: bytes) -> str:
    output = Output()
    for piece in pieces:
        output.take(piece)
    return str(output)


@given(st.binary(max_size=400), st.lists(st.integers(1, 399), max_size=5))
def test_output_that_is_short_is_told_whole_however_it_comes(whole: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(whole)]
    pieces = [whole[start:end] for start, end in pairwise(places)]
    assert printed(*pieces) == printed(whole)


def test_of_long_output_the_beginning_and_the_end_are_told() -> None:
    said = printed(b"first " + b"x" * 500, b"y" * 500, b" last\n")
    assert said.startswith("first xx")
    assert said.endswith("yy last")
    assert " … " in said
    assert len(said) < 420


def test_a_command_that_prints_too_much_is_told_so() -> None:
    output = Output()
    output.take(b"x" * MOST)
    with pytest.raises(TooMuchOutput):
        output.take(b"x")


@given(st.text())
def test_a_reason_is_one_line_that_a_terminal_can_show(text: str) -> None:
    line = printable(text, longest=50)
    assert all(one.isprintable() for one in line)
    assert len(line) <= 53


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EADDRNOTAVAIL])
def test_what_this_machine_lacks_counts_for_nothing(number: int) -> None:
    result = failed_by_system("web:80", OSError(number, "whatever"))
    assert (result.passed, result.counts) == (False, False)
    assert result.detail.startswith("web:80: this machine cannot ask: ")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('::1', 1)"), "Connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "the name is not known: Name or"),
        (OSError("no number"), "no number"),
    ],
)
def test_what_the_other_side_lacks_counts(error: OSError, words: str) -> None:
    result = failed_by_system("web:80", error)
    assert (result.passed, result.counts) == (False, True)
    assert result.detail.startswith(f"web:80: {words}")
