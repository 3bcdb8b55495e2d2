"""HAProxy's own words, as 2.6 and 2.8 print them, to values."""

from __future__ import annotations

from orbitcontrol.codec.haproxy import (
    Message,
    Processes,
    ReloadReply,
    Worker,
    parse_messages,
    parse_processes,
    parse_reload,
    parse_workers,
)

CHECK = """\
[NOTICE]   (8387) : haproxy version is 2.6.12-1+deb12u4
[ALERT]    (8387) : config : parsing [/t/a.cfg:22] : unknown keyword 'x' in 'backend' section
[ALERT]    (8387) : config : parsing [/t/a.cfg:4]: Missing LF on last line, file might have been truncated
[ALERT]    (8387) : config : [/t/a.cfg:10] : 'server b/s1' : could not resolve address 'h'.
[ALERT]    (8387) : config : Proxy 'f': unable to find required use_backend: 'zz'.
[WARNING]  (8387) : config : missing timeouts for backend 'b'.
   | While not properly invalid, you will certainly
   | encounter various problems.
[ALERT]    (8400) : Binding [/t/a.cfg:12] for frontend f: cannot bind socket (Address already in use)
[ALERT]    (8387) : config : Error(s) found in configuration file : /t/a.cfg
[ALERT]    (8387) : config : Fatal errors found in configuration.
Configuration file has no error but will not start (no listener) => exit(2).
"""


def test_messages_come_with_file_and_line_where_they_have_them() -> None:
    file = "/t/a.cfg"
    assert parse_messages(CHECK) == (
        Message(severity="notice", text="haproxy version is 2.6.12-1+deb12u4"),
        Message(severity="alert", text="unknown keyword 'x' in 'backend' section", file=file, line=22),
        Message(
            severity="alert",
            text="Missing LF on last line, file might have been truncated",
            file=file,
            line=4,
        ),
        Message(severity="alert", text="'server b/s1' : could not resolve address 'h'.", file=file, line=10),
        Message(severity="alert", text="Proxy 'f': unable to find required use_backend: 'zz'."),
        Message(
            severity="warning",
            text="missing timeouts for backend 'b'. While not properly invalid, you will certainly "
            "encounter various problems.",
        ),
        Message(
            severity="alert",
            text="Binding [/t/a.cfg:12] for frontend f: cannot bind socket (Address already in use)",
            file=file,
            line=12,
        ),
        Message(
            severity="other",
            text="Configuration file has no error but will not start (no listener) => exit(2).",
        ),
    )


def test_the_older_form_with_a_date_is_understood() -> None:
    assert parse_messages("[ALERT] 001/120000 (12) : parsing [/x:1] : bad") == (
        Message(severity="alert", text="bad", file="/x", line=1),
    )


def test_nothing_said_is_no_message() -> None:
    assert parse_messages("\n\n") == ()


PROCESSES = """\
#<PID>          <type>          <reloads>       <uptime>        <version>
8400            master          4 [failed: 2]   0d00h00m03s     2.6.12-1+deb12u4
# workers
8414            worker          0               0d00h00m00s     2.6.12-1+deb12u4
# old workers
8406            worker          1               0d00h00m02s     2.6.12-1+deb12u4
# programs

"""


def test_show_proc_tells_who_serves_and_who_leaves() -> None:
    assert parse_processes(PROCESSES) == Processes(
        master=8400, reloads=4, failed=2, workers=frozenset({8414}), leaving=frozenset({8406})
    )


def test_show_proc_tells_how_long_a_worker_has_run_and_what_it_is() -> None:
    assert parse_workers(PROCESSES) == (
        Worker(pid=8414, leaving=False, reloads=0, uptime=0.0, version=(2, 6)),
        Worker(pid=8406, leaving=True, reloads=1, uptime=2.0, version=(2, 6)),
    )
    old = "8406            worker          1               0d00h00m02s     2.6.12-1+deb12u4"
    for shown, uptime, version in (
        ("8406 worker 1 2d03h04m05s 2.8.25-5cf5d0683", 183845.0, (2, 8)),
        ("8406 worker 1 - next", 0.0, None),
        ("8406 worker 1", 0.0, None),
    ):
        last = parse_workers(PROCESSES.replace(old, shown))[-1]
        assert last == Worker(pid=8406, leaving=True, reloads=1, uptime=uptime, version=version)


def test_show_proc_of_a_version_that_counts_no_failures() -> None:
    parsed = parse_processes(PROCESSES.replace(" [failed: 2]", ""))
    assert parsed is not None
    assert (parsed.reloads, parsed.failed) == (4, 0)


def test_half_an_answer_is_none() -> None:
    assert parse_processes("") is None
    assert parse_processes("Unknown command: 'show proc'") is None


def test_the_answer_to_a_reload_says_how_it_went_from_27_on() -> None:
    assert parse_reload("Success=1\n--\n[NOTICE] : x\n\n") == ReloadReply(True, "[NOTICE] : x")
    assert parse_reload("Success=0\n--\n[ALERT] : y") == ReloadReply(False, "[ALERT] : y")
    assert parse_reload("") == ReloadReply(None)
