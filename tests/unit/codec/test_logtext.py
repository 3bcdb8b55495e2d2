from __future__ import annotations

import pytest

from orbitcontrol.codec.logtext import one_line


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("", ""),
        ("one\n", "one"),
        ("one\r\n\n  two \n", "one | two"),
        ("\x1b[1;31mred\x1b[0m alert", "red alert"),
        ("\x1b]0;title\x07text", "text"),
        ("a\x00b\x08c", "a b c"),
        ("cursor\x1b[2Jgone", "cursorgone"),
        ("grüße", "grüße"),
    ],
)
def test_what_was_written_for_a_terminal_becomes_one_plain_line(written: str, told: str) -> None:
    assert one_line(written) == told
