"""Checks as people write them: the names of their fields, and what holds where nothing is written."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from orbitcontrol.codec.documents import read_value
from orbitcontrol.model.durations import Duration
from orbitcontrol.model.service import (
    Check,
    DockerCheck,
    DummyCheck,
    ExecCheck,
    GrpcCheck,
    HttpCheck,
    Service,
    TcpCheck,
)

COMMON_DEFAULTS = {
    "connect_timeout": 0.3,
    "response_timeout": 0.3,
    "interval": 2,
    "rise": 1,
    "fall": 2,
    "start_period": 0,
}


def read(written: dict[str, Any]) -> Check:
    document = read_value({"Name": "web", "Checks": [written]}, Service, file="f")
    assert document.findings == ()
    assert document.value is not None
    [check] = document.value.checks
    return check


@pytest.mark.parametrize(
    ("written", "own"),
    [
        (
            {"Type": "http", "Url": "http://h/"},
            {
                "url": "http://h/",
                "method": "GET",
                "http_host": None,
                "headers": {},
                "username": None,
                "password": None,
                "expect_http_status": "2",
                "expect_string": None,
                "tls_skip_verify": False,
            },
        ),
        ({"Type": "tcp", "HostPort": "h:1"}, {"host_port": "h:1"}),
        ({"Type": "exec", "Command": "true"}, {"command": "true", "in_container": False}),
        ({"Type": "docker"}, {}),
        ({"Type": "grpc", "HostPort": "h:1"}, {"host_port": "h:1", "service": ""}),
        ({"Type": "dummy"}, {"dummy_result": True}),
    ],
    ids=lambda value: value.get("Type", "") if isinstance(value, dict) else "",
)
def test_what_a_check_does_not_say_has_its_default(written: dict[str, Any], own: dict[str, Any]) -> None:
    assert structs.asdict(read(written)) == COMMON_DEFAULTS | own


@pytest.mark.parametrize(
    ("written", "check"),
    [
        (
            {
                "Type": "http",
                "Url": "http://h/",
                "Method": "POST",
                "HttpHost": "web.example",
                "Headers": {"X-Probe": "yes"},
                "Username": "me",
                "Password": "secret",
                "ExpectHttpStatus": "204",
                "ExpectString": "well",
                "TlsSkipVerify": True,
            },
            HttpCheck(
                url="http://h/",
                method="POST",
                http_host="web.example",
                headers={"X-Probe": "yes"},
                username="me",
                password="secret",
                expect_http_status="204",
                expect_string="well",
                tls_skip_verify=True,
            ),
        ),
        (
            {
                "Type": "tcp",
                "HostPort": "h:1",
                "ConnectTimeout": "1s",
                "ResponseTimeout": "1m",
                "Interval": "3s",
                "Rise": 4,
                "Fall": 5,
                "StartPeriod": "6s",
            },
            TcpCheck(
                host_port="h:1",
                connect_timeout=Duration(1),
                response_timeout=Duration(60),
                interval=Duration(3),
                rise=4,
                fall=5,
                start_period=Duration(6),
            ),
        ),
        (
            {"Type": "tcp", "HostPort": "h:1", "Delay": 5000, "ConnectTimeout": 100, "ResponseTimeout": 200},
            TcpCheck(
                host_port="h:1",
                interval=Duration(5),
                connect_timeout=Duration(0.1),
                response_timeout=Duration(0.2),
            ),
        ),
        (
            {"Type": "exec", "Command": ["a", "b"], "InContainer": True},
            ExecCheck(command=["a", "b"], in_container=True),
        ),
        ({"Type": "docker", "Delay": "9s"}, DockerCheck(interval=Duration(9))),
        (
            {"Type": "grpc", "HostPort": "h:1", "Service": "web.v1"},
            GrpcCheck(host_port="h:1", service="web.v1"),
        ),
        ({"Type": "dummy", "DummyResult": False}, DummyCheck(dummy_result=False)),
    ],
    ids=["http", "common", "older names and numbers", "exec", "docker", "grpc", "dummy"],
)
def test_a_check_is_what_its_fields_say(written: dict[str, Any], check: Check) -> None:
    assert read(written) == check
    assert read({name.lower(): value for name, value in written.items()}) == check
