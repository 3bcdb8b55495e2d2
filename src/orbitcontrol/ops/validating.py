"""``validate``: everything that can be known of a tree without a store.

Reading the tree finds faults of fields, files and references. Templates are the other half: each is
rendered with made-up endpoints and shown to HAProxy. That half is a function from outside, so that a
tree can be validated where HAProxy is not installed, and tests need none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from msgspec import structs

from orbitcontrol.model.configuration import Configuration, Tag
from orbitcontrol.model.findings import Finding
from orbitcontrol.model.service import Service
from orbitcontrol.tree.load import LoadedTree, load

CheckTemplate = Callable[[Configuration, Tag], Awaitable[Iterable[Finding]]]
"""Judges a tag's template. ``Finding.file`` is the template's path in the tree (``EntryKey.path``)."""


async def validate(
    directory: Path, *, check_template: CheckTemplate, allow_unknown: bool = False
) -> LoadedTree:
    """The tree with all that was found, in its files and in its templates."""
    return await check_templates(load(directory, allow_unknown=allow_unknown), check_template)


async def check_templates(tree: LoadedTree, check_template: CheckTemplate) -> LoadedTree:
    """The tree with the findings of its templates added.

    A service whose own file has a fault still exists for the templates: one mistake, one message.
    """
    configuration = structs.replace(
        tree.configuration,
        services={
            **{name: Service(name=name) for name in tree.service_names},
            **tree.configuration.services,
        },
    )
    found: list[Finding] = []
    for tag in configuration.tags.values():
        if tag.template is not None:
            found.extend(await check_template(configuration, tag))
    return tree.with_findings(found)
