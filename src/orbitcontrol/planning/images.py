"""Which images a machine no longer needs: old ones of the names that only Orbit runs there.

Of each authoritative name the two newest tags stay, so that the last revision is still there to go
back to, and whatever a container uses or is about to use. Images of other names are not looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from msgspec import Struct

from orbitcontrol.codec.imageref import fully_qualified, qualified_name
from orbitcontrol.model.containers import ObservedImage

KEPT = 2
"""Tags of each name that stay in any case."""


class ImageNeeds(Struct, frozen=True, kw_only=True):
    """What a machine needs images for: authoritative names; ids in use; references about to be used."""

    authoritative: frozenset[str]
    used: frozenset[str] = frozenset()
    wanted: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """The authoritative names, registry spelt out."""
        return frozenset(qualified_name(name) for name in self.authoritative)


def removable(images: Iterable[ObservedImage], needs: ImageNeeds) -> tuple[str, ...]:
    """The references to remove, oldest last.

    An image is as new as its build, then as its last tagging here: reproducible builds all have
    the same time. One without a tag counts by its digest.
    """
    by_name: dict[str, list[tuple[float, float, str, ObservedImage]]] = defaultdict(list)
    for image in images:
        for name in needs.names:
            tags = [one for one in image.tags if qualified_name(one) == name]
            for reference in tags or [one for one in image.digests if qualified_name(one) == name]:
                by_name[name].append((image.created, image.tagged, reference, image))
    wanted = {fully_qualified(reference) for reference in needs.wanted}
    return tuple(
        reference
        for _, entries in sorted(by_name.items())
        for _, _, reference, image in sorted(entries, key=lambda entry: entry[:3], reverse=True)[KEPT:]
        if image.id not in needs.used
        and not wanted & {fully_qualified(one) for one in (*image.tags, *image.digests)}
    )
