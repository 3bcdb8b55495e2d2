"""A template judged without a cluster: rendered with made-up endpoints, and shown to HAProxy.

Every service has no endpoint, then one, then two: a template that takes the first of a list must
survive an empty one, because that is what a new load balancer begins with.

The machine that validates is not the load balancer. A user, a group, a file outside the tree or a
host name that only the load balancer knows is no fault of the template: it becomes a warning, and
everything else is still judged.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from msgspec import structs

from orbitcontrol.codec.haproxy import CheckResult, Message
from orbitcontrol.errors import TemplateError
from orbitcontrol.haproxy.proxy import HAProxy, HAProxySettings
from orbitcontrol.model.configuration import Configuration, MachineIdentity, ProxyConfiguration, Tag
from orbitcontrol.model.findings import Finding
from orbitcontrol.model.service import Binding, Service
from orbitcontrol.model.state import Endpoint
from orbitcontrol.planning.overrides import overridden
from orbitcontrol.planning.proxy import Directories, advice, explain, in_tree, template_path
from orbitcontrol.planning.render import RenderContext, Rendered, render

_MACHINE = "192.0.2.10"
_ADDRESSES = ("192.0.2.1", "192.0.2.2")
_PORT = 20000
_ROUNDS = 10
_HOW_MANY = ("with no endpoints", "with one endpoint of each service", "with two endpoints of each service")
_NO_ACCOUNT = re.compile(r"cannot find (user|group) id for '([^']+)'|unknown (user|group) name '([^']+)'")
_ONLY_THERE = re.compile(
    r"could not resolve address|Failed to initialize server\(s\) addr|No such file or dir|error opening file"
)


async def check_template(
    configuration: Configuration, tag: Tag, *, binary: str = "haproxy", ask_haproxy: bool = True
) -> tuple[Finding, ...]:
    """What is wrong with the tag's template; nothing for a tag without one.

    Problems are named by template file and line. Without HAProxy on this machine the template is
    rendered only, and a warning says so; with ``ask_haproxy`` false, without the warning.
    """
    if tag.template is None:
        return ()
    candidate = ProxyConfiguration(
        tag=tag.name, template=tag.template, certs=tag.certs, haproxy_files=tag.haproxy_files
    )
    path = template_path(tag.name)
    with tempfile.TemporaryDirectory(prefix="orbit-") as directory:
        proxy = HAProxy(HAProxySettings(config_dir=Path(directory), binary=binary))
        trial = _Trial(configuration, candidate, proxy)
        try:
            rendered = [trial.render(count) for count in range(len(_ADDRESSES) + 1)]
        except TemplateError as error:
            return (Finding(file=_at(path, error.line), message=str(error)),)
        findings = [*_advice(path, rendered[-1].text), *trial.unused_certs(rendered[-1].text)]
        if ask_haproxy and shutil.which(binary) is None:
            message = f"{binary} is not on this machine: rendered, but not shown to HAProxy"
            findings.append(Finding(file=path, message=message, severity="warning"))
        elif ask_haproxy:
            findings.extend(await trial.judge(rendered))
    return tuple(dict.fromkeys(findings))


def _at(path: str, line: int | None) -> str:
    return path if line is None else f"{path}:{line}"


def _place(finding: Finding) -> str:
    """What makes two problems the same one: their line; warnings, and what has no line, their words."""
    return finding.file if finding.is_problem and ":" in finding.file else str(finding)


def _advice(path: str, text: str) -> Iterator[Finding]:
    for message in advice(text):
        yield Finding(file=path, message=message, severity="warning")


class _Trial:
    """One template with its certificates and files in a directory of its own."""

    def __init__(self, configuration: Configuration, candidate: ProxyConfiguration, proxy: HAProxy) -> None:
        self._services = configuration.services
        self._published = {
            name: overridden(service, _bindings(configuration, name))
            for name, service in configuration.services.items()
        }
        """The services as machines publish them: with what tags add."""
        self._candidate = candidate
        self._proxy = proxy
        self._directories: Directories = proxy.directories(candidate)

    def render(self, count: int) -> Rendered:
        """The template with ``count`` endpoints of every service. Raises TemplateError that says so."""
        context = RenderContext(
            machine=MachineIdentity(address=_MACHINE, tags=(self._candidate.tag,)),
            services=self._services,
            endpoints={name: _endpoints(service, count) for name, service in self._published.items()},
            certs_dir=self._directories.certs,
            files_dir=self._directories.files,
            socket=self._proxy.socket,
        )
        try:
            return render(self._candidate.template, context, with_lines=True)
        except TemplateError as error:
            if count == 0 and self._renders_with_one():
                raise TemplateError(f"{error} ({_HOW_MANY[0]})", line=error.line) from None
            raise

    def _renders_with_one(self) -> bool:
        try:
            self.render(1)
        except TemplateError:
            return False
        return True

    async def judge(self, renderings: list[Rendered]) -> list[Finding]:
        """HAProxy's problems, one for each line, and its warnings.

        A problem that one and two endpoints both show is the line's; any other says when it shows.
        """
        found = [await self._judge(rendered) for rendered in renderings]
        places = [{_place(finding) for finding in findings if finding.is_problem} for findings in found]
        judged: dict[str, Finding] = {}
        for how_many, findings in zip(_HOW_MANY, found, strict=True):
            for finding in findings:
                place = _place(finding)
                if not finding.is_problem or (place in places[1] and place in places[2]):
                    judged.setdefault(place, finding)
                else:
                    message = f"{finding.message} ({how_many})"
                    judged.setdefault(place, structs.replace(finding, message=message))
        return list(judged.values())

    async def _judge(self, rendered: Rendered) -> list[Finding]:
        """Asks HAProxy until it names no account that is unknown here; each such line is then left out."""
        text, elsewhere = rendered.text, list[Message]()
        for _ in range(_ROUNDS):
            result = await self._proxy.check(text, self._candidate)
            accounts = [m for m in result.messages if m.file == result.file and _NO_ACCOUNT.search(m.text)]
            elsewhere.extend(accounts)
            if not accounts:
                break
            text = _without_accounts(text, accounts)
        alerts = [message for message in result.messages if message.severity in ("alert", "other")]
        only_there = [message for message in alerts if self._is_only_there(message)]
        problems = [] if result.accepted else [m for m in alerts if m not in only_there]
        warnings = [message for message in result.messages if message.severity == "warning"]
        findings = self._findings(result, rendered, [*elsewhere, *only_there], "warning", "not judged here: ")
        findings += self._findings(result, rendered, warnings, "warning", "")
        if problems or not (result.accepted or only_there):
            findings += self._findings(result, rendered, problems, "problem", "")
        return findings

    def _is_only_there(self, message: Message) -> bool:
        """True for what another machine may well have: a host name, a file that is not the tree's."""
        ours = (self._directories.certs, self._directories.files)
        return bool(_ONLY_THERE.search(message.text)) and not any(each in message.text for each in ours)

    def _findings(
        self, result: CheckResult, rendered: Rendered, messages: list[Message], severity: str, prefix: str
    ) -> list[Finding]:
        tag = self._candidate.tag
        findings = []
        for line in explain(messages, tag=tag, file=result.file, lines=rendered.lines) if messages else ():
            place, _, text = in_tree(line, tag, self._directories).partition(": ")
            findings.append(
                Finding(
                    file=place,
                    message=prefix + text,
                    severity="warning" if severity == "warning" else "problem",
                )
            )
        return findings

    def unused_certs(self, text: str) -> Iterator[Finding]:
        """A certificate that the configuration names neither itself nor by its whole directory."""
        if re.search(re.escape(self._directories.certs) + r"/?(\s|$)", text, re.MULTILINE):
            return
        for name in sorted(self._candidate.certs):
            if name not in text:
                yield Finding(
                    file=f"machineconfigurations/tags/{self._candidate.tag}/certs/{name}",
                    message="no line of the template uses it; name it with {{ certs_dir }}, or remove it",
                    severity="warning",
                )


def _bindings(configuration: Configuration, service: str) -> Iterator[Binding]:
    for tag in configuration.tags.values():
        if service in tag.services:
            yield tag.services[service]


def _endpoints(service: Service, count: int) -> dict[str, Endpoint]:
    port = service.endpoint_port or _PORT
    return {
        f"{address}:{port}": Endpoint(
            id="made-up", machine=address, session="made-up", attributes=service.attributes
        )
        for address in _ADDRESSES[:count]
    }


def _without_accounts(text: str, messages: list[Message]) -> str:
    """The text with the accounts that do not exist here taken out of their lines."""
    lines = text.split("\n")
    for message in messages:
        found = _NO_ACCOUNT.search(message.text)
        if found is None or message.line is None:
            continue
        kind, name = found[1] or found[3], found[2] or found[4]
        pattern = rf"(^|\s){kind}\s+{re.escape(name)}(?=\s|$)"
        lines[message.line - 1] = re.sub(pattern, " ", lines[message.line - 1])
    return "\n".join(lines)
