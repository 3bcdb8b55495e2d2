"""Templates are judged beside the files, and one mistake gives one message."""

from __future__ import annotations

from pathlib import Path

from orbitcontrol.model.configuration import Configuration, Tag
from orbitcontrol.model.findings import Finding
from orbitcontrol.ops.validating import validate
from support.trees import TAGS, sound_tree

FAULT = Finding(file=f"{TAGS}/lb/haproxy.tpl:3", message="a fault")


class Judge:
    """Finds one fault in every template and remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, set[str]]] = []

    async def __call__(self, configuration: Configuration, tag: Tag) -> list[Finding]:
        self.seen.append((tag.name, set(configuration.services)))
        return [FAULT]


async def test_only_tags_with_a_template_are_judged(tmp_path: Path) -> None:
    judge = Judge()
    tree = await validate(sound_tree(tmp_path), check_template=judge)
    assert judge.seen == [("lb", {"web"})]
    assert tree.problems == (FAULT,)


async def test_a_service_with_a_fault_still_exists_for_the_templates(tmp_path: Path) -> None:
    judge = Judge()
    tree = await validate(sound_tree(tmp_path, **{"services/web.json": "{"}), check_template=judge)
    assert judge.seen == [("lb", {"web"})]
    assert [problem.file for problem in tree.problems] == [FAULT.file, "services/web.json"]
    assert tree.configuration.services == {}
