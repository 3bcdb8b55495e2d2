"""Which template line made which output line, and that finding out never changes the output."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbitcontrol.errors import TemplateError
from orbitcontrol.model.configuration import MachineIdentity
from orbitcontrol.model.service import Service
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.render import RenderContext, render
from orbitcontrol.planning.template_lines import mark, unmark

CONTEXT = RenderContext(
    machine=MachineIdentity(address="10.0.0.9"),
    services={"web": Service(name="web")},
    endpoints={"web": {f"10.0.0.{n}:80": Endpoint(id="1", machine="m", session="s") for n in (1, 2)}},
    certs_dir="/c",
    files_dir="/f",
    socket="/s",
)
FOR = '{% for e in endpoints("web") %}'


def mapped(template: str) -> list[tuple[str, int]]:
    """The output's visible lines, each with the template line it comes from."""
    rendered = render(template, CONTEXT, with_lines=True)
    assert rendered.lines is not None
    rows = rendered.text.split("\n")
    return [(row.strip(), line) for row, line in zip(rows, rendered.lines, strict=False) if row.strip()]


def test_plain_lines_map_to_themselves() -> None:
    assert mapped("a\n  b\n\n c\n") == [("a", 1), ("b", 2), ("c", 4)]


def test_each_turn_of_a_loop_maps_to_its_body() -> None:
    template = f"x\n{FOR}\n  server {{{{ e.name }}}}\n  extra\n{{% endfor %}}\ny\n"
    first, second = ("server web-10.0.0.1:80", 3), ("server web-10.0.0.2:80", 3)
    assert mapped(template) == [("x", 1), first, ("extra", 4), second, ("extra", 4), ("y", 6)]


def test_trimmed_tags_keep_their_trimming_and_their_lines() -> None:
    server = "\n  server {{- ' ' ~ e.name -}}\n  {{ ' ' ~ e.port }}\n"
    template = "a\n{%- for e in endpoints('web') -%}" + server + "{%- endfor -%}\n\nb\n"
    rendered = render(template, CONTEXT, with_lines=True)
    assert rendered.text == "aserver web-10.0.0.1:80 80server web-10.0.0.2:80 80b\n"
    assert rendered.lines == (1, 7)  # the text's one line, and the empty rest behind its end


def test_an_expression_at_the_start_of_a_line_names_its_line() -> None:
    assert mapped("a\n{{ socket }} x\n  {{- certs_dir }}\n{{ files_dir -}}\n z") == [
        ("a", 1),
        ("/s x/c", 2),
        ("/fz", 4),
    ]


def test_a_line_that_only_follows_a_tag_names_its_line() -> None:
    assert mapped("a\n{% if true %}b{% endif %}\n{% if true -%}\n\n\n c{% endif %}") == [
        ("a", 1),
        ("b", 2),
        ("c", 6),
    ]


def test_raw_text_comments_and_tags_over_several_lines_count() -> None:
    raw = "{% raw %}\n{{ not rendered }}\n{% endraw %}\n"
    template = "{# one\n two #}\n" + raw + "{{\n  socket\n}}\n{% set x =\n 1 %}\nend"
    assert mapped(template) == [("{{ not rendered }}", 4), ("/s", 6), ("end", 11)]


def test_a_tags_end_inside_quotes_is_no_end() -> None:
    assert mapped("""{{ "}}" }}\n{% set a = '%}' %}\n{{ a }}""") == [("}}", 1), ("%}", 3)]


def test_a_value_of_several_lines_belongs_to_its_expression() -> None:
    assert mapped("a\n{{ 'x\\ny\\nz' }}\nb") == [("a", 1), ("x", 2), ("y", 2), ("z", 2), ("b", 3)]


def test_a_macros_lines_are_those_of_its_body() -> None:
    template = (
        "{% macro server(e) %}\n  server {{ e.name }}\n  more\n{% endmacro %}\n"
        + FOR
        + "{{ server(e) }}{% endfor %}"
    )
    assert [line for _, line in mapped(template)] == [2, 3, 2, 3]


def test_a_captured_block_names_where_it_was_written() -> None:
    assert mapped("{% set x %}one\ntwo{% endset %}\n\n{{ x }}") == [("one", 1), ("two", 2)]


@pytest.mark.parametrize(
    "template",
    [
        "{% set x %}one{% endset %}\n{{ x | length }}",
        "a\ue000\nb",
        "{% filter reverse %}ab\ncd{% endfilter %}",
    ],
    ids=["its length is looked at", "uses the markers itself", "its text is taken apart"],
)
def test_a_template_that_would_notice_has_no_map_and_its_right_text(template: str) -> None:
    rendered = render(template, CONTEXT, with_lines=True)
    assert rendered.lines is None
    assert rendered.text == render(template, CONTEXT).text


PIECES = st.sampled_from(
    [
        "text",
        " ",
        "\n",
        "  \n\t",
        "{{ socket }}",
        "{{- socket }}",
        "{{ socket -}}",
        "{{- '}}' -}}",
        "{% if true %}",
        "{%- if true -%}",
        "{% if false %}",
        "{% endif %}",
        "{%- endif -%}",
        "{%+ endif +%}",
        "{% for i in range(2) %}",
        "{% for i in range(2) -%}",
        "{% endfor %}",
        "{%- endfor %}",
        "{# note\n #}",
        "{#- note -#}",
        "{% raw %}",
        "{%- raw -%}",
        "{% endraw %}",
        "{%- endraw -%}",
        "{{\n socket\n}}",
        "#",
        "{",
        "}}",
    ]
)


@given(st.lists(PIECES, max_size=14))
def test_marking_never_changes_what_any_template_renders_to(pieces: list[str]) -> None:
    template = "".join(pieces)
    marked = mark(template)
    assert marked is not None
    assert marked.count("\n") == template.count("\n")
    try:
        expected = render(template, CONTEXT).text
    except TemplateError:
        return
    plain, lines = unmark(render(marked, CONTEXT).text)
    assert plain == expected
    assert len(lines) == len(plain.split("\n"))
    assert all(1 <= line <= template.count("\n") + 1 for line in lines)
