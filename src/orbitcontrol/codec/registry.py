"""Texts of the registries' HTTP API: where an image's manifest is, who gives tokens, what went wrong.

What registries send is never trusted to be well formed: whatever cannot be read is left out.
API: https://github.com/opencontainers/distribution-spec/blob/main/spec.md; tokens:
https://distribution.github.io/distribution/spec/auth/; challenges: RFC 9110, section 11.6.1.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from msgspec import Struct

from orbitcontrol.codec.imageref import DOCKER_HUB, qualified_name, registry_of, tag_of
from orbitcontrol.codec.logtext import one_line

MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
"""What may stand behind a reference. A registry says "unknown" where it has only what was not asked for."""

LOOPBACK = ("127.0.0.0/8", "::1/128")
"""Where Docker does without TLS although nobody allowed it."""

_HUB_HOST = "registry-1.docker.io"
_LONGEST_WORDS = 200

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_ENDS = r"\s*(?:,|$)"
_PART = re.compile(
    r"[\s,]*(?:"
    rf"(?P<name>{_WORD})\s*=\s*(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<bare>{_WORD})){_ENDS}"
    rf"|(?P<scheme>{_WORD})(?:\s+[A-Za-z0-9._~+/-]+=*{_ENDS}|\s+|$|(?=,))"
    ")"
)
"""A parameter, or a scheme with the token68 that may stand in place of parameters."""


class Challenge(Struct, frozen=True):
    """One way of saying who one is that a server takes; names in lower case."""

    scheme: str
    parameters: dict[str, str]


def host_of(image: str) -> str:
    """The ``host[:port]`` that is asked about the image."""
    registry = registry_of(image)
    return _HUB_HOST if registry == DOCKER_HUB else registry


def repository_of(image: str) -> str:
    """The image's name within its registry: ``library/web`` for ``web``."""
    path = qualified_name(image).partition("/")[2]
    is_official = registry_of(image) == DOCKER_HUB and "/" not in path
    return f"library/{path}" if is_official else path


def manifest_path(image: str) -> str:
    """The path of the image's manifest in the URL."""
    return f"/v2/{quote(repository_of(image))}/manifests/{quote(tag_of(image), safe=':')}"


def is_insecure(host: str, insecure: Collection[str]) -> bool:
    """Whether one of ``insecure`` names ``host[:port]``: as it stands, or as a network of its address.

    That is how the Docker engine lists registries whose certificates it does not look at, and that it
    asks without TLS when they have none. Names are not resolved, but for ``localhost``.
    """
    if host in insecure:
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
        address = ipaddress.ip_address("127.0.0.1" if name == "localhost" else name)
    except ValueError:
        return False
    return any(address in network for network in _networks(insecure))


def _networks(texts: Iterable[str]) -> Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for text in texts:
        try:
            yield ipaddress.ip_network(text, strict=False)
        except ValueError:
            continue  # it is a name


def challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """What ``WWW-Authenticate`` asks for, in its order; each header may hold several challenges."""
    return tuple(challenge for header in headers for challenge in _challenges(header))


def _challenges(header: str) -> Iterable[Challenge]:
    found: list[Challenge] = []
    at = 0
    while part := _PART.match(header, at):
        scheme, name, quoted, bare = part.group("scheme", "name", "quoted", "bare")
        if scheme:
            found.append(Challenge(scheme.lower(), {}))
        elif found:
            value = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1].parameters.setdefault(name.lower(), value)
        at = part.end()
    return found


def said(body: bytes) -> str:
    """What a registry's error says, in one short line; "" for a body that is no registry's error."""
    errors = _object(body).get("errors")
    if not isinstance(errors, list):
        return ""
    words = [_words(error) for error in errors if isinstance(error, dict)]
    return one_line("; ".join(word for word in words if word))[:_LONGEST_WORDS]


def _words(error: Mapping[str, Any]) -> str:
    return ": ".join(str(error[key]) for key in ("code", "message") if error.get(key))


def token_of(body: bytes) -> str:
    """The token in a token server's answer; "" where there is none."""
    answer = _object(body)
    token = answer.get("token") or answer.get("access_token")
    return token if isinstance(token, str) else ""


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
