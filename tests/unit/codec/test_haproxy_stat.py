"""HAProxy's statistics, as 2.6, 2.8 and versions with other columns print them."""

from __future__ import annotations

from orbitcontrol.codec.haproxy_stat import StatRow, is_complete, parse_info, parse_statistics

STATISTICS = """\
# pxname,svname,qcur,qmax,scur,smax,status,type,addr,last_chk,-,h2_open_connections,h1_open_connections,
web,FRONTEND,,,2,2,STOP,0,,,-,1,1,
web,a,3,3,1,1,no check,2,127.0.0.1:81,"L4OK, in 3ms",-,,,
web,BACKEND,0,0,1,1,UP,1,,,-,0,1,
web,sock-1,,,1,1,OPEN,3,,,-,,,

"""

ROWS = (
    StatRow(proxy="web", server="FRONTEND", kind="frontend", sessions=2, status="STOP", h2_connections=1),
    StatRow(
        proxy="web",
        server="a",
        kind="server",
        sessions=1,
        queued=3,
        status="no check",
        address="127.0.0.1:81",
    ),
    StatRow(proxy="web", server="BACKEND", kind="backend", sessions=1, status="UP", h2_connections=0),
    StatRow(proxy="web", server="sock-1", kind="listener", sessions=1, status="OPEN"),
)


def test_the_rows_are_read_by_the_names_of_their_columns() -> None:
    assert parse_statistics(STATISTICS) == ROWS


def test_a_version_with_fewer_columns_in_another_order_is_understood() -> None:
    assert parse_statistics("# type,svname,qcur,scur,pxname\n2,a,1,7,web\n") == (
        StatRow(proxy="web", server="a", kind="server", sessions=7, queued=1),
    )
    assert parse_statistics("# type,svname,scur,pxname\n2,a,7,web\n") == ()


def test_a_kind_of_row_that_nobody_knows_and_half_a_row_are_left_out() -> None:
    assert parse_statistics("# type,svname,qcur,scur,pxname\n9,a,,7,web\n2,b,,1\n0,FRONTEND,,1,web\n") == (
        StatRow(proxy="web", server="FRONTEND", kind="frontend", sessions=1),
    )


def test_what_is_no_statistics_has_no_rows() -> None:
    for text in ("", "\n", "# ", "Can't find the target PID matching the prefix '@!9'\n", "# a,b\n1,2\n"):
        assert parse_statistics(text) == ()
        assert not is_complete(text)


def test_statistics_that_were_cut_off_are_not_complete() -> None:
    assert is_complete(STATISTICS)
    assert not any(is_complete(STATISTICS[:end]) for end in range(len(STATISTICS)))


def test_the_numbers_of_show_info_are_found_by_their_names() -> None:
    found = parse_info("Name: HAProxy\nVersion: 2.6.12\nPid: 15985\nUptime: 0d 0h00m01s\nCurrConns: 5\n\n")
    assert found == {"Pid": 15985, "CurrConns": 5}
