"""The examples of docs/templates.md do what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orbitcontrol.haproxy.validate import check_template
from orbitcontrol.model.configuration import Configuration, MachineIdentity, Tag
from orbitcontrol.model.service import Service
from orbitcontrol.planning.render import FUEL, LONGEST_OUTPUT, LONGEST_TEMPLATE, RenderContext, render
from support.haproxy import an_endpoint

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("haproxy_binary")]

PAGE = (Path(__file__).parents[3] / "docs/templates.md").read_text()
EXAMPLES = re.findall(r"```jinja\n(.*?)```(?:\n```text\n(.*?)```)?", PAGE, re.DOTALL)
SERVICES = {name: Service(name=name) for name in ("web", "api")}
CONTEXT = RenderContext(
    machine=MachineIdentity(address="10.0.0.9", tags=("lb",), zone="eu-1a"),
    services=SERVICES,
    endpoints={
        "web": {
            "10.0.0.5:3500": an_endpoint(availability_zone="eu-1a", attributes={"weight": "30"}),
            "10.0.0.6:3500": an_endpoint(availability_zone="eu-1b"),
        }
    },
    certs_dir="/etc/haproxy/certs/0123456789abcdef",
    files_dir="/etc/haproxy/haproxy_files/fedcba9876543210",
    socket="/s",
)


def test_the_page_has_examples_of_both_kinds() -> None:
    assert [bool(output) for _, output in EXAMPLES] == [False, True, True, True, True]


@pytest.mark.parametrize("template", [template for template, output in EXAMPLES if not output])
async def test_a_complete_example_has_nothing_wrong_with_it(template: str) -> None:
    tag = Tag(name="lb", template=template)
    assert await check_template(Configuration(services=SERVICES, tags={"lb": tag}), tag) == ()


@pytest.mark.parametrize(("template", "output"), [example for example in EXAMPLES if example[1]])
def test_an_example_renders_to_what_stands_below_it(template: str, output: str) -> None:
    assert render(template, CONTEXT).text.strip() == output.strip()


def test_the_bounds_are_those_of_the_code() -> None:
    assert (LONGEST_TEMPLATE, FUEL, LONGEST_OUTPUT) == (1 << 20, 10_000_000, 16 << 20)
    assert "at most 1 MiB, takes at most 10 million steps" in PAGE
    assert "makes at most 16 MiB" in PAGE
