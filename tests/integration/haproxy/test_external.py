"""An HAProxy that somebody else runs: reloaded by a command or its master socket, read back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orbitcontrol.errors import HAProxyError, HAProxyRejected
from orbitcontrol.haproxy import external
from orbitcontrol.haproxy.proxy import HAProxy, HAProxySettings
from orbitcontrol.model.configuration import ProxyConfiguration
from support.haproxy import HAProxyHome, eventually

pytestmark = pytest.mark.integration

EMPTY = ProxyConfiguration(tag="lb", template="")


def config(home: HAProxyHome, status: int, extra: str = "") -> str:
    return f"""\
defaults
    mode http
    timeout client 5s
    timeout connect 5s
    timeout server 5s
frontend f
    bind 127.0.0.1:{home.port}
{extra}    http-request return status {status}
"""


@pytest.fixture
async def elsewhere(haproxy_home: HAProxyHome, haproxy_binary: str) -> AsyncIterator[HAProxyHome]:
    """An HAProxy started by the test, answering 200."""
    home = haproxy_home
    home.config.write_text(config(home, 200))
    command = [haproxy_binary, "-W", "-db", "-f", str(home.config), "-S", str(home.master.path)]
    child = await asyncio.create_subprocess_exec(
        *command, "-p", str(home.directory / "haproxy.pid"), stderr=asyncio.subprocess.DEVNULL
    )
    await eventually(lambda: answers(home, 200), "it is up")
    yield home
    child.kill()
    await child.wait()


async def answers(home: HAProxyHome, status: int) -> bool:
    return (await home.get()).startswith(str(status))


def adapter(home: HAProxyHome, *, command: str | None = None, socket: bool = False) -> HAProxy:
    return HAProxy(
        HAProxySettings(
            config_dir=home.directory,
            reload_command=command,
            master_socket=home.master.path if socket else None,
        )
    )


def usr2(home: HAProxyHome) -> str:
    return f"kill -USR2 $(cat {home.directory}/haproxy.pid)"


@pytest.mark.parametrize("way", ["socket", "command", "both"])
async def test_it_is_reloaded_and_serves_the_new_configuration(elsewhere: HAProxyHome, way: str) -> None:
    proxy = adapter(elsewhere, command=None if way == "socket" else usr2(elsewhere), socket=way != "command")
    await proxy.apply(config(elsewhere, 201), EMPTY)
    await eventually(lambda: answers(elsewhere, 201), "the new configuration serves")
    assert (elsewhere.directory / "haproxy.cfg.1").read_text() == config(elsewhere, 200)


@pytest.mark.parametrize("way", ["socket", "both"])
async def test_a_reload_that_fails_is_noticed_and_the_old_file_put_back(
    elsewhere: HAProxyHome, way: str
) -> None:
    proxy = adapter(elsewhere, command=usr2(elsewhere) if way == "both" else None, socket=True)
    with pytest.raises(HAProxyRejected, match=r"unknown keyword 'nonsense'|new worker did not come up"):
        await proxy.apply(config(elsewhere, 201, "    nonsense\n"), EMPTY)
    assert elsewhere.config.read_text() == config(elsewhere, 200)
    assert await answers(elsewhere, 200)


async def test_a_command_that_fails_is_told_with_its_words(elsewhere: HAProxyHome) -> None:
    proxy = adapter(elsewhere, command="echo no such unit; exit 5")
    with pytest.raises(HAProxyError, match=r"ended with 5: no such unit"):
        await proxy.apply(config(elsewhere, 201), EMPTY)
    assert elsewhere.config.read_text() == config(elsewhere, 200)


async def test_a_command_that_hangs_is_ended_with_all_that_it_started(
    elsewhere: HAProxyHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "COMMAND_DEADLINE", 0.5)
    pid = elsewhere.directory / "child.pid"
    proxy = adapter(elsewhere, command=f"sleep 300 & echo $! > {pid}; wait")
    with pytest.raises(HAProxyError, match=r"no answer in 0\.5 s, ended"):
        await proxy.apply(config(elsewhere, 201), EMPTY)
    assert elsewhere.config.read_text() == config(elsewhere, 200)
    child = Path(f"/proc/{pid.read_text().strip()}/stat")

    def is_gone() -> bool:
        return not child.exists() or child.read_text().split()[2] == "Z"

    async def gone() -> bool:
        return is_gone()

    await eventually(gone, "the command's child ended")


async def test_a_configuration_keeps_its_owner_and_mode(elsewhere: HAProxyHome) -> None:
    elsewhere.config.chmod(0o640)
    os.chown(elsewhere.config, 33, 33)
    await adapter(elsewhere, socket=True).apply(config(elsewhere, 201), EMPTY)
    after = elsewhere.config.stat()
    assert (after.st_uid, after.st_gid, after.st_mode & 0o777) == (33, 33, 0o640)


async def test_without_a_way_to_reload_the_message_names_the_options(haproxy_home: HAProxyHome) -> None:
    with pytest.raises(HAProxyError, match="--haproxy-reload-command"):
        await adapter(haproxy_home).apply(config(haproxy_home, 201), EMPTY)
    assert not haproxy_home.config.exists()


async def test_a_socket_on_which_nobody_listens_is_named(haproxy_home: HAProxyHome) -> None:
    with pytest.raises(HAProxyError, match=r"haproxy-master\.sock: no HAProxy master listens here"):
        await adapter(haproxy_home, socket=True).apply(config(haproxy_home, 201), EMPTY)


async def test_a_missing_program_is_named(haproxy_home: HAProxyHome) -> None:
    proxy = HAProxy(
        HAProxySettings(config_dir=haproxy_home.directory, binary="no-such-haproxy", managed=True)
    )
    for asked in (proxy.check("global\n", EMPTY), proxy.apply("global\n", EMPTY)):
        with pytest.raises(HAProxyError, match=r"no-such-haproxy.*--haproxy-binary"):
            await asked
    await proxy.close()


async def test_the_first_runtime_socket_that_matches_is_told_to_templates(tmp_path: Path) -> None:
    pattern = str(tmp_path / "*.sock")
    assert HAProxy(HAProxySettings(config_dir=tmp_path, socket=pattern)).socket == pattern
    for name in ("b.sock", "a.sock"):
        (tmp_path / name).touch()
    assert HAProxy(HAProxySettings(config_dir=tmp_path, socket=pattern)).socket == str(tmp_path / "a.sock")


async def test_a_master_that_hangs_is_not_started_a_second_time(
    haproxy_home: HAProxyHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbitcontrol.haproxy.master.ANSWER_DEADLINE", 0.5)
    proxy = haproxy_home.adapter()
    await proxy.apply(config(haproxy_home, 200), EMPTY)
    await proxy.close()
    pid = (await haproxy_home.processes()).master
    os.kill(pid, signal.SIGSTOP)
    try:
        again = haproxy_home.adapter()
        with pytest.raises(HAProxyError, match="no answer to 'show proc'"):
            await again.ensure(start=True)
        await again.close()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (await haproxy_home.processes()).master == pid
