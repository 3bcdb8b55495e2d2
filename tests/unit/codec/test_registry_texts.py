from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbitcontrol.codec.registry import (
    LOOPBACK,
    challenges,
    host_of,
    is_insecure,
    manifest_path,
    repository_of,
    said,
    token_of,
)

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            'Bearer realm="https://auth.example/t",service="registry",scope="repository:team/web:pull,push"',
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.example/t",
                        "service": "registry",
                        "scope": "repository:team/web:pull,push",
                    },
                )
            ],
        ),
        ('BASIC Realm = "the \\"registry\\""', [("basic", {"realm": 'the "registry"'})]),
        (
            'Basic realm=plain, charset="UTF-8" , Bearer realm="r"',
            [("basic", {"realm": "plain", "charset": "UTF-8"}), ("bearer", {"realm": "r"})],
        ),
        (
            "Negotiate, Negotiate abc==, Basic",
            [("negotiate", {}), ("negotiate", {}), ("basic", {})],
        ),
        ('Bearer realm="first",realm="second"', [("bearer", {"realm": "first"})]),
        ('realm="of nobody", Basic realm="x"', [("basic", {"realm": "x"})]),
        ('Bearer realm="never closed', [("bearer", {})]),
        ("", []),
    ],
)
def test_what_a_server_asks_for_is_read_from_its_header(
    header: str, expected: list[tuple[str, dict[str, str]]]
) -> None:
    assert [(one.scheme, one.parameters) for one in challenges([header])] == expected


def test_challenges_may_come_in_several_headers() -> None:
    assert [one.scheme for one in challenges(["Negotiate", 'Basic realm="x"'])] == ["negotiate", "basic"]


@given(st.text(alphabet='Basic realm="\\,\t=é', max_size=60))
def test_no_header_breaks_its_reader(header: str) -> None:
    challenges([header])


@pytest.mark.parametrize(
    ("image", "host", "repository", "path"),
    [
        ("web", "registry-1.docker.io", "library/web", "/v2/library/web/manifests/latest"),
        ("team/web:2", "registry-1.docker.io", "team/web", "/v2/team/web/manifests/2"),
        ("docker.io/web:2", "registry-1.docker.io", "library/web", "/v2/library/web/manifests/2"),
        ("reg.example/web:2", "reg.example", "web", "/v2/web/manifests/2"),
        ("localhost/web", "localhost", "web", "/v2/web/manifests/latest"),
        ("reg:5000/a/b/web", "reg:5000", "a/b/web", "/v2/a/b/web/manifests/latest"),
        (f"reg:5000/web@{DIGEST}", "reg:5000", "web", f"/v2/web/manifests/{DIGEST}"),
        (f"reg:5000/web:2@{DIGEST}", "reg:5000", "web", f"/v2/web/manifests/{DIGEST}"),
        ("[::1]:5000/web:2", "[::1]:5000", "web", "/v2/web/manifests/2"),
        ("reg:5000/web?x:2/y", "reg:5000", "web?x:2/y", "/v2/web%3Fx%3A2/y/manifests/latest"),
    ],
)
def test_an_image_is_asked_of_its_registry_at_its_path(
    image: str, host: str, repository: str, path: str
) -> None:
    assert (host_of(image), repository_of(image), manifest_path(image)) == (host, repository, path)


@pytest.mark.parametrize(
    ("host", "insecure", "expected"),
    [
        ("127.0.0.1:5000", LOOPBACK, True),
        ("127.8.8.8", LOOPBACK, True),
        ("localhost:5000", LOOPBACK, True),
        ("[::1]:5000", LOOPBACK, True),
        ("10.0.0.5:5000", LOOPBACK, False),
        ("10.0.0.5:5000", ("10.0.0.0/8",), True),
        ("10.0.0.5:5000", ("10.0.0.5:5000",), True),
        ("10.0.0.5:5001", ("10.0.0.5:5000",), False),
        ("registry:5000", (*LOOPBACK, "registry:5000"), True),
        ("registry:5001", (*LOOPBACK, "registry:5000"), False),
        ("localhost.example", LOOPBACK, False),
        ("127.0.0.1:5000", (), False),
    ],
)
def test_a_registry_is_insecure_where_the_engine_says_so(
    host: str,
    insecure: tuple[str, ...],
    expected: bool,  # noqa: FBT001 -- a column of the table
) -> None:
    assert is_insecure(host, insecure) is expected


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}',
            "MANIFEST_UNKNOWN: manifest unknown",
        ),
        (b'{"errors":[{"code":"DENIED"},{"message":"go\\u001b[2J away"}]}', "DENIED; go away"),
        (b'{"errors":[{"message":"' + b"long " * 100 + b'"}]}', "long " * 40),
        (b'{"errors":"none"}', ""),
        (b'{"errors":[1]}', ""),
        (b"[" * 100_000, ""),
        (b"<html>", ""),
        (b"\xff", ""),
    ],
)
def test_a_registrys_error_is_one_short_line(body: bytes, words: str) -> None:
    assert said(body) == words


@pytest.mark.parametrize(
    ("body", "token"),
    [
        (b'{"token":"a","access_token":"b"}', "a"),
        (b'{"access_token":"b"}', "b"),
        (b'{"token":7}', ""),
        (b"{}", ""),
        (b"", ""),
    ],
)
def test_a_token_is_found_under_either_of_its_names(body: bytes, token: str) -> None:
    assert token_of(body) == token
