"""A template judged without a cluster, by the real HAProxy."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from msgspec import structs

from orbitcontrol.haproxy.validate import check_template
from orbitcontrol.model.configuration import Configuration, Tag
from orbitcontrol.model.findings import Finding, problems_of, warnings_of
from orbitcontrol.model.service import Binding, Service
from support.haproxy_homes import TEMPLATE

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("haproxy_binary")]

GOOD = TEMPLATE.replace("@PORT@", "8080")
PATH = "machineconfigurations/tags/lb/haproxy.tpl"


async def judged(template: str | None, **fields: object) -> tuple[Finding, ...]:
    tag = Tag(name="lb", template=template, **fields)  # type: ignore[arg-type]
    services = {name: Service(name=name) for name in ("web", "api")}
    return await check_template(Configuration(services=services, tags={"lb": tag}), tag)


async def problems(template: str, **fields: object) -> list[str]:
    return [str(finding) for finding in problems_of(await judged(template, **fields))]


async def warnings(template: str, **fields: object) -> list[str]:
    findings = await judged(template, **fields)
    assert problems_of(findings) == ()
    return [str(finding) for finding in warnings_of(findings)]


async def test_a_good_template_has_nothing_wrong_with_it() -> None:
    assert await judged(GOOD) == ()


async def test_a_tag_without_a_template_has_nothing_to_judge() -> None:
    assert await judged(None) == ()


async def test_keywords_that_haproxy_removed_are_refused_by_line() -> None:
    old = "defaults\n    contimeout 5000\n    clitimeout 60000\n    srvtimeout 60000\n"
    found = await problems("global\n    quiet\n" + old)
    assert [line.partition(" the ")[0] for line in found] == [f"{PATH}:{n}:" for n in (4, 5, 6)]
    assert "'contimeout' directive is not supported anymore" in found[0]


async def test_a_mistake_inside_a_loop_is_told_once_with_the_templates_line() -> None:
    bad = GOOD.replace("{{ e.address }}", "{{ e.address }} wieght 3")
    line = bad.splitlines().index("    server {{ e.name }} {{ e.address }} wieght 3") + 1
    [found] = await problems(bad)
    assert found.startswith(f"{PATH}:{line}: ")
    assert "wieght" in found
    assert not found.endswith(")")


async def test_what_only_some_numbers_of_endpoints_break_says_which() -> None:
    [found] = await problems(GOOD.replace("{{ e.name }}", "same"))
    assert found.endswith("(with two endpoints of each service)")
    [found] = await problems(GOOD + "    {{ endpoints('web')[0].name }}\n")
    assert found.endswith("(with no endpoints)")


async def test_an_undefined_name_and_an_unknown_service_are_named() -> None:
    assert "`nope` is undefined" in (await problems(GOOD + "{{ nope }}\n"))[0]
    [found] = await problems("{{ endpoints('wep') }}\n" + GOOD)
    assert found == f"{PATH}:1: there is no service 'wep'; did you mean 'web'?"


def self_signed(directory: Path) -> str:
    """A key and its certificate."""
    key, cert = directory / "key", directory / "cert"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return key.read_text() + cert.read_text()


async def test_certificates_and_files_are_in_place_for_the_check(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.fail("openssl is not installed: `apt-get install openssl`")
    pem = self_signed(tmp_path)
    template = GOOD.replace(
        "    default_backend web",
        "    bind :8443 ssl crt {{ certs_dir }}/site.pem\n"
        "    errorfile 503 {{ files_dir }}/503.http\n    default_backend web",
    )
    page = "HTTP/1.0 503 Service Unavailable\r\nConnection: close\r\n\r\nsorry\r\n"
    assert await judged(template, certs={"site.pem": pem}, haproxy_files={"503.http": page}) == ()
    [found] = await problems(template, certs={"site.pem": "rubbish"}, haproxy_files={"503.http": page})
    assert "certificate from file 'machineconfigurations/tags/lb/certs/site.pem'" in found
    [found] = await problems(template, certs={"site.pem": pem})
    assert "machineconfigurations/tags/lb/haproxy_files/503.http" in found


async def test_a_certificate_that_no_line_uses_is_a_warning() -> None:
    [found] = await warnings(GOOD, certs={"old.pem": "x"})
    assert found.startswith("machineconfigurations/tags/lb/certs/old.pem: no line of the template uses it")


async def test_what_only_the_load_balancer_has_is_a_warning_and_the_rest_is_judged() -> None:
    template = GOOD.replace("level admin", "level admin user nosuchuser group nosuchgroup").replace(
        "global\n", "global\n    user nosuchuser\n    group nosuchgroup\n    chroot /no/such/place\n", 1
    )
    spared = await warnings(template)
    assert [each.partition(": not judged here")[0] for each in spared] == [
        f"{PATH}:{n}" for n in (2, 3, 5, 5)
    ]
    line = len((template + "    balance nowhere\n").splitlines())
    [found] = await problems(template + "    balance nowhere\n")
    assert found.startswith(f"{PATH}:{line}: ")


async def test_a_host_name_that_no_resolver_here_knows_is_a_warning() -> None:
    found = await warnings(GOOD + "    server far nosuch.invalid:80\n")
    assert any("nosuch.invalid" in each for each in found)


async def test_what_makes_reloads_unsafe_is_a_warning() -> None:
    plain = "".join(
        line
        for line in GOOD.splitlines(keepends=True)
        if not any(word in line for word in ("stats", "hard-stop", "http-request", "retries", "redispatch"))
    )
    assert len(await warnings(plain)) == 5


async def test_a_configuration_with_nothing_to_listen_on_is_refused() -> None:
    assert any("no listener" in each for each in await problems("defaults\n    mode http\n"))


async def test_without_haproxy_a_template_is_rendered_and_that_is_said() -> None:
    tag = Tag(name="lb", template=GOOD)
    configuration = Configuration(services={"web": Service(name="web")}, tags={"lb": tag})
    [found] = await check_template(configuration, tag, binary="no-such-haproxy")
    assert not found.is_problem
    assert "no-such-haproxy is not on this machine" in found.message
    assert await check_template(configuration, tag, ask_haproxy=False) == ()
    broken = Tag(name="lb", template="{{ nope }}")
    [found] = await check_template(configuration, broken, binary="no-such-haproxy")
    assert found.is_problem


async def test_made_up_endpoints_have_the_attributes_that_tags_add() -> None:
    template = GOOD.replace("{{ e.address }}", "{{ e.address }} weight {{ e.attributes.weight }}")
    lb, app = Tag(name="lb", template=template), Tag(name="app")
    heavy = structs.replace(app, services={"web": Binding(attributes={"weight": "5"})})
    for tag, accepted in ((heavy, True), (app, False)):
        configuration = Configuration(services={"web": Service(name="web")}, tags={"lb": lb, "app": tag})
        found = [each for each in await check_template(configuration, lb) if each.is_problem]
        assert (found == []) is accepted, found
