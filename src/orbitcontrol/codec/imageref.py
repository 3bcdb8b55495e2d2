"""Image references as Docker writes them: ``[registry[:port]/]name[:tag][@digest]``.

A colon before the last slash belongs to the registry's port, not to a tag; that one rule is why
this module exists. Nothing is refused here: what Docker does not understand, Docker says.
Grammar: https://pkg.go.dev/github.com/distribution/reference
"""

from __future__ import annotations

from msgspec import Struct

DEFAULT_TAG = "latest"
DOCKER_HUB = "docker.io"


class ImageRef(Struct, frozen=True, kw_only=True):
    """A reference in its parts; ``tag`` and ``digest`` are "" where it has none."""

    name: str
    tag: str = ""
    digest: str = ""


def parse(image: str) -> ImageRef:
    """Splits a reference; ``digest`` keeps its algorithm (``sha256:…``)."""
    rest, _, digest = image.partition("@")
    head, slash, last = rest.rpartition("/")
    base, _, tag = last.partition(":")
    return ImageRef(name=head + slash + base, tag=tag, digest=digest)


def name_of(image: str) -> str:
    """The reference without tag and digest: ``registry:5000/team/web``."""
    return parse(image).name


def tag_of(image: str) -> str:
    """What says which image of that name: the digest, else the tag, else ``latest``."""
    reference = parse(image)
    return reference.digest or reference.tag or DEFAULT_TAG


def with_revision(image: str, revision: str) -> str:
    """The same name at another revision. A digest of the old reference is dropped.

    A revision with a colon is a digest (no tag has one), so that
    ``with_revision(image, tag_of(image))`` always names the same image.
    """
    return f"{name_of(image)}{'@' if ':' in revision else ':'}{revision}"


def canonical(image: str) -> str:
    """The reference with its tag or digest spelt out: ``web`` and ``web:latest`` become equal."""
    return with_revision(image, tag_of(image))


def registry_of(image: str) -> str:
    """The registry's ``host[:port]``; ``docker.io`` for a name without one.

    As in Docker, the first part of a name is a registry when it has a dot or a colon or is
    ``localhost``.
    """
    first, slash, _ = name_of(image).partition("/")
    is_registry = slash and ("." in first or ":" in first or first == "localhost")
    return first if is_registry else DOCKER_HUB


def fully_qualified(image: str) -> str:
    """The canonical reference with its registry spelt out, as the engine accepts it in a pull."""
    reference = canonical(image)
    if registry_of(image) != DOCKER_HUB or reference.startswith(DOCKER_HUB + "/"):
        return reference
    return f"{DOCKER_HUB}/{reference if '/' in name_of(image) else 'library/' + reference}"


def qualified_name(image: str) -> str:
    """The name with its registry spelt out, without tag and digest: ``web`` is ``docker.io/library/web``."""
    return name_of(fully_qualified(image))
