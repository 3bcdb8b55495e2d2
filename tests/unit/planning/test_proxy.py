"""Which template is tried, when HAProxy has to be told, and how its refusals are put to people."""

from __future__ import annotations

import pytest

from orbitcontrol.codec.haproxy import Message
from orbitcontrol.codec.haproxy_text import layout
from orbitcontrol.model.configuration import ProxyConfiguration
from orbitcontrol.planning.proxy import (
    advice,
    candidates,
    difference,
    explain,
    has_admin_socket,
    loaded,
    needs_reload,
    size_of_change,
    template_path,
)

NEW = ProxyConfiguration(tag="lb", template="new")
OLD = ProxyConfiguration(tag="lb", template="old")
PATH = template_path("lb")
CONFIG = """\
global
    maxconn 10
backend web
    server a 10.0.0.1:80
    server b 10.0.0.2:80
backend api
    server a 10.0.0.3:80
"""


@pytest.mark.parametrize(
    ("desired", "good", "tried"),
    [(NEW, OLD, (NEW, OLD)), (NEW, NEW, (NEW,)), (NEW, None, (NEW,)), (None, OLD, (OLD,)), (None, None, ())],
)
def test_the_wanted_template_is_tried_first_and_the_last_good_one_is_the_fallback(
    desired: ProxyConfiguration | None,
    good: ProxyConfiguration | None,
    tried: tuple[ProxyConfiguration, ...],
) -> None:
    assert candidates(desired, good) == tried


LAYOUT = layout(CONFIG)


def test_a_configuration_that_was_loaded_needs_no_reload() -> None:
    assert needs_reload(wanted=LAYOUT, disk=LAYOUT, applied=loaded(LAYOUT)) is None


def test_servers_alone_need_no_reload() -> None:
    wanted = layout(CONFIG.replace("    server b 10.0.0.2:80\n", ""))
    assert needs_reload(wanted=wanted, disk=LAYOUT, applied=loaded(LAYOUT)) is None


def test_a_file_that_nobody_saw_loaded_is_loaded_again() -> None:
    reason = needs_reload(wanted=LAYOUT, disk=LAYOUT, applied="")
    assert reason == "the file on disk was not seen to be loaded"


def test_the_first_configuration_is_a_reason() -> None:
    assert needs_reload(wanted=LAYOUT, disk=None, applied="") == "first configuration"


CHANGES = [
    (CONFIG.replace("    server b 10.0.0.2:80\n", ""), "servers went: web/b", 1),
    (CONFIG + "    server c 10.0.0.4:80\n", "servers came: api/c", 1),
    (CONFIG.replace("10.0.0.3:80", "10.0.0.3:80 weight 3"), "servers changed: api/a", 1),
    (CONFIG.replace("maxconn 10", "maxconn 11"), "template, certificates or files changed", 2),
    (
        CONFIG.replace("server b", "server c").replace("maxconn 10", ""),
        "servers came: web/c; servers went: web/b; template, certificates or files changed",
        3,
    ),
]


@pytest.mark.parametrize(("after", "reason", "size"), CHANGES)
def test_a_change_is_named_and_measured(after: str, reason: str, size: int) -> None:
    assert difference(LAYOUT, layout(after)) == reason
    assert size_of_change(LAYOUT, layout(after)) == size


def test_a_reload_says_what_changed() -> None:
    wanted = layout(CONFIG.replace("maxconn 10", "maxconn 11"))
    reason = needs_reload(wanted=wanted, disk=LAYOUT, applied=loaded(LAYOUT))
    assert reason == "template, certificates or files changed"


def test_a_reason_names_some_servers_and_counts_the_rest() -> None:
    more = CONFIG + "".join(f"    server s{n} 10.0.0.4:{n}\n" for n in range(8))
    assert difference(LAYOUT, layout(more)) == (
        "servers came: api/s0, api/s1, api/s2, api/s3, api/s4 and 3 more"
    )


def alert(text: str, line: int | None = None, file: str = "/x.cfg") -> Message:
    return Message(severity="alert", text=text, line=line, file=file if line else "")


def test_a_refusal_names_the_templates_line() -> None:
    messages = [alert("unknown keyword 'x'", 3), alert("no listener")]
    assert explain(messages, tag="lb", file="/x.cfg", lines=[1, 2, 9]) == (
        f"{PATH}:9: unknown keyword 'x'",
        f"{PATH}: no listener",
    )


def test_the_same_refusal_of_many_servers_is_told_once() -> None:
    messages = [alert("bad weight", line) for line in (2, 3, 4)]
    assert explain(messages, tag="lb", file="/x.cfg", lines=[1, 7, 7, 7]) == (f"{PATH}:7: bad weight",)


def test_lines_inside_a_message_are_the_templates_too() -> None:
    messages = [alert("was already defined at line 2, see /x.cfg:1", 3)]
    assert explain(messages, tag="lb", file="/x.cfg", lines=[1, 5, 6]) == (
        f"{PATH}:6: was already defined at line 5, see {PATH}:1",
    )


@pytest.mark.parametrize("lines", [None, [1, 2]])
def test_without_a_map_the_rendered_line_is_named_as_such(lines: list[int] | None) -> None:
    assert explain([alert("bad", 3)], tag="lb", file="/x.cfg", lines=lines) == (
        f"{PATH}: line 3 of the rendered configuration: bad",
    )


def test_a_line_of_another_file_stays_what_it_is() -> None:
    assert explain([alert("bad", 3, "/certs/list")], tag="lb", file="/x.cfg", lines=[1, 2, 3]) == (
        "/certs/list:3: bad",
    )


def test_warnings_are_left_out_beside_alerts_and_silence_is_put_into_words() -> None:
    warning = Message(severity="warning", text="missing timeouts")
    assert explain([warning, alert("bad", 1)], tag="lb", file="/x.cfg", lines=[1]) == (f"{PATH}:1: bad",)
    assert explain([], tag="lb", file="/x.cfg", lines=None) == (f"{PATH}: HAProxy refuses it without a word",)


def test_advice_is_given_for_what_is_missing_only() -> None:
    complete = """\
global
    stats socket /s mode 600 level admin expose-fd listeners
    hard-stop-after 10s
defaults
    timeout http-request 5s
    retries 3
    option redispatch
"""
    assert advice(complete) == ()
    assert has_admin_socket(complete)
    for line in complete.splitlines():
        if line.startswith(" "):
            assert len(advice(complete.replace(line + "\n", ""))) == 1, line
    assert not has_admin_socket(complete.replace("level admin", "level operator"))
