"""Which servers are quiet in a worker that leaves, and when that cannot be told at all."""

from __future__ import annotations

import pytest

from orbitcontrol.codec.haproxy import Worker
from orbitcontrol.codec.haproxy_stat import Kind, StatRow
from orbitcontrol.planning.leaving_workers import oldest_first, seconds_leaving, uncountable, unquiet

A, B = "10.0.0.1:80", "10.0.0.2:80"
SERVERS = {"web/a": A}


def row(server: str, kind: Kind, sessions: int = 0, **values: object) -> StatRow:
    return StatRow(proxy="web", server=server, kind=kind, sessions=sessions, **values)  # type: ignore[arg-type]


def clients(sessions: int, *, h2: int | None = 0) -> StatRow:
    return row("FRONTEND", "frontend", sessions, h2_connections=h2)


def a(sessions: int = 0, queued: int = 0) -> StatRow:
    return row("a", "server", sessions, queued=queued, address=A)


def b(sessions: int = 0) -> StatRow:
    return row("b", "server", sessions, address=B)


def why(*readings: list[StatRow], servers: dict[str, str] = SERVERS) -> str:
    return unquiet(readings, servers).get(next(iter(servers)), "")


def test_a_server_without_sessions_is_quiet_when_every_client_is_at_another() -> None:
    for rows in ([clients(0), a(), b()], [clients(2), a(), b(2)]):
        assert unquiet([rows, rows], SERVERS) == {}


def test_a_server_with_a_session_or_somebody_in_its_queue_is_not() -> None:
    assert why([clients(1), a(1), b()]) == "sessions 1, queued 0"
    assert why([clients(1), a(0, 1), b()]) == "sessions 0, queued 1"


def test_a_client_that_is_at_no_server_yet_may_choose_any() -> None:
    rows = [clients(2), a(), b(1)]
    assert "2 connected, 1 sessions" in why(rows)


def test_the_clients_of_all_frontends_count_and_those_of_listeners_and_backends_do_not() -> None:
    assert why([clients(1), clients(1), a(), b(1)])
    rows = [clients(1), row("sock", "listener", 1), row("BACKEND", "backend", 1), a(), b(1)]
    assert not why(rows, rows)


def test_one_reading_of_two_is_not_enough() -> None:
    quiet = [clients(1), a(), b(1)]
    assert why(quiet, [clients(1), a(), b(0)])
    assert why([clients(1), a(), b(0)], quiet)


def test_a_client_that_speaks_http2_may_choose_any_server_again() -> None:
    assert "1 of them speak HTTP/2" in why([clients(1, h2=1), a(), b(1)])
    assert "does not tell" in why([clients(1, h2=None), a(), b(1)])
    assert not why([clients(0, h2=None), a(), b()])


def test_a_server_that_an_earlier_configuration_named_otherwise_is_found_by_its_address() -> None:
    assert why([clients(1), a(1)], servers={"new/name": A}) == "sessions 1, queued 0"
    assert why([clients(1), a(1)], servers={"web/a": ""}) == "sessions 1, queued 0"


def test_a_server_that_the_worker_does_not_have_is_quiet() -> None:
    assert not why([clients(1), a()], servers={"web/c": "10.0.0.3:80"})
    nameless = row("x", "server", 1)
    assert not why([clients(1), nameless], servers={"web/c": ""})


@pytest.mark.parametrize(
    ("line", "speaks"),
    [
        ("bind :80", ""),
        ("bind :80 proto h2", "HTTP/2"),
        ("bind :80 proto h1", ""),
        ("bind :443 ssl crt /c alpn h2,http/1.1", "HTTP/2"),
        ('bind :443 ssl crt "/c" alpn "h2"', "HTTP/2"),
        ("bind :443 ssl crt /c alpn http/1.1", ""),
        ("bind :443 ssl crt /c alpn http/1.1 # alpn of old", ""),
        ("bind :443 ssl crt /c npn h2", "HTTP/2"),
        ("bind :443 ssl crt-list /l", "HTTP/2"),
        ("bind :443 ssl crt-list /l no-alpn", "HTTP/2"),
        ("bind :443 ssl crt /c no-alpn", ""),
        ("bind :443 ssl crt /c alpn $PROTOCOLS", "HTTP/2"),
        ('bind :443 "${OPTIONS[*]}"', "HTTP/2"),
        ("bind quic4@:443 ssl crt /c alpn h3", "QUIC"),
        ("bind :80,quic6@:443 ssl crt /c no-alpn", "QUIC"),
        ("bind $ADDRESS", "QUIC"),
        ("filter spoe engine e config /e", "agents"),
        ("filter compression", ""),
        ("server a 10.0.0.1:443 ssl alpn h2", ""),
        ("# bind :443 alpn h2", ""),
    ],
)
def test_what_makes_sessions_uncountable_is_read_off_the_configuration(line: str, speaks: str) -> None:
    reason = uncountable(f"frontend f\n    {line}\n    bind :81\n", version=(2, 6)) or ""
    assert bool(reason) is bool(speaks)
    assert speaks in reason
    assert not reason or "line 2" in reason


def test_from_28_on_a_bind_with_ssl_alone_speaks_http2() -> None:
    text = "frontend f\n    bind :443 ssl crt /c\n"
    assert uncountable(text, version=(2, 6)) is None
    assert uncountable(text, version=(2, 8))
    assert uncountable(text, version=(3, 0))
    assert uncountable(text, version=None)
    assert uncountable(text.replace("/c", "/c no-alpn"), version=(2, 8)) is None


def worker(pid: int, reloads: int, uptime: float) -> Worker:
    return Worker(pid=pid, leaving=reloads > 0, reloads=reloads, uptime=uptime, version=(2, 6))


SERVING, MIDDLE, OLDEST = worker(3, 0, 5), worker(2, 2, 60), worker(1, 3, 900)


def test_a_worker_leaves_since_the_next_one_of_those_that_are_left_started() -> None:
    assert seconds_leaving(OLDEST, [SERVING, MIDDLE, OLDEST]) == 60
    assert seconds_leaving(OLDEST, [SERVING, OLDEST]) == 5
    assert seconds_leaving(MIDDLE, [SERVING, MIDDLE, OLDEST]) == 5
    assert seconds_leaving(OLDEST, [OLDEST]) == 0


def test_those_that_leave_are_told_with_the_oldest_first() -> None:
    assert oldest_first([SERVING, MIDDLE, OLDEST]) == [OLDEST, MIDDLE]
