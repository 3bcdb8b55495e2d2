from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbitcontrol.codec.imageref import (
    ImageRef,
    canonical,
    fully_qualified,
    name_of,
    parse,
    registry_of,
    tag_of,
    with_revision,
)

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("web", ImageRef(name="web")),
        ("web:2", ImageRef(name="web", tag="2")),
        ("registry:5000/web", ImageRef(name="registry:5000/web")),
        ("registry:5000/team/web:v1.2-rc", ImageRef(name="registry:5000/team/web", tag="v1.2-rc")),
        (f"web@{DIGEST}", ImageRef(name="web", digest=DIGEST)),
        (f"registry:5000/web:1@{DIGEST}", ImageRef(name="registry:5000/web", tag="1", digest=DIGEST)),
    ],
)
def test_a_reference_falls_into_name_tag_and_digest(image: str, expected: ImageRef) -> None:
    assert parse(image) == expected


def test_no_tag_means_latest_and_a_digest_is_stronger_than_a_tag() -> None:
    assert tag_of("registry:5000/web") == "latest"
    assert tag_of("web:2") == "2"
    assert tag_of(f"web:2@{DIGEST}") == DIGEST


def test_a_revision_replaces_the_tag_and_drops_the_digest() -> None:
    assert with_revision("registry:5000/web", "7") == "registry:5000/web:7"
    assert with_revision("web:2", "7") == "web:7"
    assert with_revision(f"web:2@{DIGEST}", "7") == "web:7"


def test_a_revision_can_be_a_digest() -> None:
    assert with_revision("web:2", DIGEST) == f"web@{DIGEST}"


@pytest.mark.parametrize(
    ("image", "registry", "full"),
    [
        ("web", "docker.io", "docker.io/library/web:latest"),
        ("team/web:1", "docker.io", "docker.io/team/web:1"),
        ("docker.io/team/web:1", "docker.io", "docker.io/team/web:1"),
        ("localhost/web:1", "localhost", "localhost/web:1"),
        ("registry:5000/web", "registry:5000", "registry:5000/web:latest"),
        ("ghcr.io/team/web:1", "ghcr.io", "ghcr.io/team/web:1"),
    ],
)
def test_a_name_without_a_registry_is_docker_hubs(image: str, registry: str, full: str) -> None:
    assert registry_of(image) == registry
    assert fully_qualified(image) == full


names = st.from_regex(r"([a-z0-9]+(\.[a-z0-9]+)*(:[0-9]{1,5})?/)?[a-z0-9]+([._-][a-z0-9]+)*", fullmatch=True)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)


@given(names, tags)
def test_a_revision_is_read_back_as_it_was_set(name: str, tag: str) -> None:
    image = with_revision(name, tag)
    assert (name_of(image), tag_of(image)) == (name, tag)
    assert canonical(image) == image
