"""What holds for an HAProxy that somebody else runs: the ways to reload it, and what they can tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from orbitcontrol.errors import HAProxyError, HAProxyRejected
from orbitcontrol.haproxy import external
from orbitcontrol.haproxy.proxy import HAProxy
from orbitcontrol.model.configuration import ProxyConfiguration
from support.haproxy import eventually
from support.haproxy_homes import DISTRIBUTION, NEWER, DistributionHome, HAProxyHome, on

pytestmark = [pytest.mark.integration, on((False, DISTRIBUTION), (False, NEWER))]

EMPTY = ProxyConfiguration(tag="lb", template="")


@pytest.fixture
async def elsewhere(haproxy_home: HAProxyHome) -> DistributionHome:
    """An HAProxy that answers 200."""
    assert isinstance(haproxy_home, DistributionHome)
    await haproxy_home.begin()
    return haproxy_home


def answering(home: HAProxyHome, status: int, *, more: str = "") -> str:
    """The configuration of the beginning, with another answer."""
    line = f"return status {status}"
    return home.config.read_text().replace("return status 200", line) + more


async def answers(home: HAProxyHome, status: int) -> bool:
    return (await home.get()).startswith(str(status))


def reloaded(home: DistributionHome, way: str) -> HAProxy:
    command = None if way == "master socket" else home.reload_command
    return home.reloaded_by(command=command, master=way != "command")


@pytest.mark.parametrize("way", ["master socket", "command", "both"])
async def test_it_is_reloaded_and_serves_the_new_configuration(elsewhere: DistributionHome, way: str) -> None:
    before = elsewhere.config.read_text()
    await reloaded(elsewhere, way).apply(answering(elsewhere, 201), EMPTY)
    await eventually(lambda: answers(elsewhere, 201), "the new configuration serves")
    assert elsewhere.config.with_name("haproxy.cfg.1").read_text() == before


@pytest.mark.parametrize("way", ["master socket", "command", "both"])
async def test_a_reload_that_fails_is_noticed_and_the_old_file_put_back(
    elsewhere: DistributionHome, way: str
) -> None:
    before = elsewhere.config.read_text()
    refusal = r"unknown keyword 'nonsense'|new worker did not come up|command ended with 1"
    with pytest.raises(HAProxyRejected, match=refusal):
        await reloaded(elsewhere, way).apply(answering(elsewhere, 201, more="    nonsense\n"), EMPTY)
    assert elsewhere.config.read_text() == before
    assert await answers(elsewhere, 200)


async def test_a_command_that_fails_is_told_with_its_words(elsewhere: DistributionHome) -> None:
    before = elsewhere.config.read_text()
    proxy = elsewhere.reloaded_by(command="echo no such unit; exit 5")
    with pytest.raises(HAProxyError, match=r"ended with 5: no such unit"):
        await proxy.apply(answering(elsewhere, 201), EMPTY)
    assert elsewhere.config.read_text() == before


async def test_a_command_that_hangs_is_ended_with_all_that_it_started(
    elsewhere: DistributionHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "COMMAND_DEADLINE", 0.5)
    before = elsewhere.config.read_text()
    pid = elsewhere.directory / "child.pid"
    proxy = elsewhere.reloaded_by(command=f"sleep 300 & echo $! > {pid}; wait")
    with pytest.raises(HAProxyError, match=r"no answer in 0\.5 s, ended"):
        await proxy.apply(answering(elsewhere, 201), EMPTY)
    assert elsewhere.config.read_text() == before
    child = Path(f"/proc/{pid.read_text().strip()}/stat")

    def is_gone() -> bool:
        return not child.exists() or child.read_text().split()[2] == "Z"

    async def gone() -> bool:
        return is_gone()

    await eventually(gone, "the command's child ended")


async def test_without_a_way_to_reload_the_message_names_the_options(elsewhere: DistributionHome) -> None:
    before = elsewhere.config.read_text()
    with pytest.raises(HAProxyError, match="--haproxy-reload-command"):
        await elsewhere.reloaded_by().apply(answering(elsewhere, 201), EMPTY)
    assert elsewhere.config.read_text() == before


async def test_a_socket_on_which_nobody_listens_is_named(haproxy_home: HAProxyHome) -> None:
    with pytest.raises(HAProxyError, match=r"haproxy-master\.sock: no HAProxy master listens here"):
        await haproxy_home.adapter().apply("global\n", EMPTY)
