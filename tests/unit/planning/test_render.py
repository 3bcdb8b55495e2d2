"""What a template of a load balancer sees, and how its mistakes are told."""

from __future__ import annotations

import pytest
from msgspec import structs

from orbitcontrol.model.configuration import MachineIdentity
from orbitcontrol.model.service import Container, Service
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.render import FUEL, LONGEST_OUTPUT, RenderContext, RenderFailed, render


def endpoint(machine: str = "10.0.0.5", zone: str = "", **attributes: str) -> Endpoint:
    return Endpoint(
        id="1", machine=machine, session="s", revision="R1", availability_zone=zone, attributes=attributes
    )


WEB = Service(
    name="web",
    endpoint_port=3500,
    instances=2,
    attributes={"path": "/w"},
    container=Container(config={"Image": "registry:5000/web:R7"}),
)
CONTEXT = RenderContext(
    machine=MachineIdentity(address="10.0.0.9", tags=("lb", "eu"), zone="eu-1a"),
    services={"web": WEB, "worker": Service(name="worker")},
    endpoints={
        "web": {
            "10.0.0.6:3500": endpoint("10.0.0.6", "eu-1b"),
            "10.0.0.5:3500": endpoint("10.0.0.5", "eu-1a", weight="3"),
        }
    },
    certs_dir="/c",
    files_dir="/f",
    socket="/s",
)


def text(template: str, context: RenderContext = CONTEXT) -> str:
    return render(template, context).text.removesuffix("\n")


def failure(template: str) -> RenderFailed:
    with pytest.raises(RenderFailed) as caught:
        render(template, CONTEXT)
    return caught.value


def test_endpoints_come_sorted_by_name_with_everything_known_of_them() -> None:
    fields = ("name", "host", "port", "address", "revision", "zone", "machine")
    template = (
        "{% for e in endpoints('web') %}" + " ".join(f"{{{{ e.{f} }}}}" for f in fields) + ";{% endfor %}"
    )
    assert text(template) == (
        "web-10.0.0.5:3500 10.0.0.5 3500 10.0.0.5:3500 R1 eu-1a 10.0.0.5;"
        "web-10.0.0.6:3500 10.0.0.6 3500 10.0.0.6:3500 R1 eu-1b 10.0.0.6;"
    )


def test_an_attribute_that_is_missing_takes_its_default() -> None:
    template = "{% for e in endpoints('web') %}{{ e.attributes.weight | default(10) }} {% endfor %}"
    assert text(template) == "3 10 "


def test_local_endpoints_are_those_of_the_machines_zone() -> None:
    assert text("{% for e in local_endpoints('web') %}{{ e.host }}{% endfor %}") == "10.0.0.5"


@pytest.mark.parametrize(
    ("zone", "strict", "count"), [("", "", 2), ("us", "", 2), ("us", ", strict=True", 0)]
)
def test_a_zone_without_endpoints_falls_back_to_all_unless_told_not_to(
    zone: str, strict: str, count: int
) -> None:
    machine = MachineIdentity(address="10.0.0.9", zone=zone)
    context = RenderContext(
        machine=machine,
        services={"web": WEB},
        endpoints=CONTEXT.endpoints,
        certs_dir="",
        files_dir="",
        socket="",
    )
    assert text(f"{{{{ local_endpoints('web'{strict}) | length }}}}", context) == str(count)


@pytest.mark.parametrize(("strict", "count"), [("", 2), (", strict=True", 0)])
def test_a_machine_without_a_zone_has_no_local_endpoints(strict: str, count: int) -> None:
    context = structs.replace(
        CONTEXT,
        machine=MachineIdentity(address="10.0.0.9"),
        endpoints={"web": {"10.0.0.5:80": endpoint(zone="eu-1a"), "10.0.0.6:80": endpoint()}},
    )
    assert text(f"{{{{ local_endpoints('web'{strict}) | length }}}}", context) == str(count)


def test_a_service_and_the_machine_can_be_asked_about() -> None:
    template = (
        "{% set s = service('web') %}{{ s.name }} {{ s.revision }} {{ s.endpoint_port }} {{ s.instances }} "
        "{{ s.attributes.path }} {{ machine.address }} {{ machine.tags | join(',') }} {{ machine.zone }} "
        "{{ certs_dir }} {{ files_dir }} {{ socket }}"
    )
    assert text(template) == "web R7 3500 2 /w 10.0.0.9 lb,eu eu-1a /c /f /s"


def test_what_a_rendering_asked_for_is_recorded_also_when_it_has_no_endpoint() -> None:
    assert render("{{ endpoints('worker') | length }}", CONTEXT).services == {"worker"}
    assert render("{{ local_endpoints('web') | length }}", CONTEXT).services == {"web"}
    assert render("{{ service('web').name }}", CONTEXT).services == frozenset()


def test_a_branch_that_is_not_taken_asks_for_nothing() -> None:
    assert render("{% if false %}{{ endpoints('nosuch') }}{% endif %}x", CONTEXT).services == frozenset()


def test_the_text_always_ends_its_last_line() -> None:
    assert render("a", CONTEXT).text == "a\n"
    assert render("a\n", CONTEXT).text == "a\n"


def test_nothing_is_escaped_and_text_is_kept_as_it_is() -> None:
    assert text("acl a path_reg ^/a<b>\"&'  é \t") == "acl a path_reg ^/a<b>\"&'  é \t"


@pytest.mark.parametrize(
    ("template", "line", "words"),
    [
        ("a\nb\n{{ foo }}", 3, "`foo` is undefined"),
        ("{% for e in endpoints('web') %}\n{{ e.prot }}\n{% endfor %}", 2, "`e.prot` is undefined"),
        ("\n{% if machine.nope %}{% endif %}", 2, "`machine.nope` is undefined"),
        ("{{ endpoints('web')[0].attributes.nope }}", 1, "attributes.nope` is undefined"),
        ("\n\n{% for x in y %}", 3, "unexpected end of input"),
        ("a\n{% else %}", 2, "unknown statement else"),
        ("{{ 'x' | nofilter }}", 1, "nofilter"),
        ("a\n{% include 'other' %}", 2, "one file"),
        ("a\n\n{{ endpoints('wep') }}", 3, "no service 'wep'; did you mean 'web'?"),
        ("{{ service('zzzzzz') }}", 1, "no service 'zzzzzz'"),
        ("{{ local_endpoints('wep') }}", 1, "no service 'wep'; did you mean 'web'?"),
        ("{% set n = 'wo' ~ 'rk' %}{{ endpoints(n) }}", None, "no service 'work'; did you mean 'worker'?"),
        ("{{ endpoints() }}", None, "in a call that the template makes"),
    ],
)
def test_a_mistake_is_told_with_its_line(template: str, line: int | None, words: str) -> None:
    error = failure(template)
    assert error.line == line
    assert words in str(error)
    assert "\n" not in str(error)


def test_an_error_shows_no_values() -> None:
    error = failure("{% set password = 'hunter2' %}{{ nothing }}")
    assert "hunter2" not in str(error)


def test_a_failed_rendering_says_what_it_had_asked_for() -> None:
    assert failure("{{ endpoints('worker')[0].name }}").services == {"worker"}


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(10000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ 'x' * 1000000000 }}",
        "{% for a in range(20000) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "x" * (2 << 20),
    ],
    ids=["nested loops", "recursion", "power", "repetition", "output", "nesting", "length"],
)
def test_work_is_bounded(template: str) -> None:
    failure(template)


def test_the_bounds_leave_room_for_the_largest_installations() -> None:
    assert FUEL >= 20 * 200_000
    assert LONGEST_OUTPUT >= 100_000 * 100
    many = {f"10.{n >> 8}.{n & 255}.1:80": endpoint(weight="1") for n in range(5000)}
    context = RenderContext(
        machine=CONTEXT.machine,
        services={"web": WEB},
        endpoints={"web": many},
        certs_dir="",
        files_dir="",
        socket="",
    )
    server = "server {{ e.name }} {{ e.address }} weight {{ e.attributes.weight }}"
    template = "{% for e in endpoints('web') %}" + server + "\n{% endfor %}"
    assert text(template, context).count("server ") == 5000


@pytest.mark.parametrize(
    "expression",
    [
        "e.__class__",
        "e.__init__.__globals__",
        "endpoints.__globals__",
        "service.__class__.__mro__",
        "machine.__struct_config__",
    ],
)
def test_a_template_cannot_reach_into_python(expression: str) -> None:
    failure("{% set e = endpoints('web')[0] %}{{ " + expression + " }}")


@pytest.mark.parametrize(
    "expression", ["e.attributes.clear()", "e.attributes.update({'a': 'b'})", "endpoints('web').append(1)"]
)
def test_a_template_cannot_change_what_it_is_given(expression: str) -> None:
    failure("{% set e = endpoints('web')[0] %}{{ " + expression + " }}")


@pytest.mark.parametrize("end", ["", "{{ nothing }}"], ids=["whole", "failed"])
def test_a_template_that_changed_attributes_leaves_none_changed_for_the_next_rendering(end: str) -> None:
    change = "{% set e = endpoints('web')[0] %}{{ e.attributes.update({'weight': '9'}) }}" + end
    weights = "{% for e in endpoints('web') %}{{ e.attributes.weight | default(10) }} {% endfor %}"
    before = text(weights)
    failure(change)
    assert text(weights) == before


def test_the_same_inputs_give_the_same_text() -> None:
    template = "{% for e in endpoints('web') %}{{ e }}{{ e.attributes }}{% endfor %}{{ service('web') }}"
    backwards = dict(reversed(list(CONTEXT.endpoints["web"].items())))
    context = RenderContext(
        machine=CONTEXT.machine,
        services=CONTEXT.services,
        endpoints={"web": backwards},
        certs_dir="/c",
        files_dir="/f",
        socket="/s",
    )
    assert text(template) == text(template, context)
