"""What connects come to, and what they prove together: a machine that is off, frozen, or alive."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
from msgspec import Struct

from orbitcontrol.agent.board import Problems
from orbitcontrol.agent.gone import GoneProofs
from orbitcontrol.agent.rollout_sight import boot_time
from orbitcontrol.planning.gone import CLOSED_PORT, Answer
from orbitcontrol.probes.connect import TcpConnector
from orbitcontrol.statedir import StateDirectory
from support.loops import running, until
from support.servers import free_port, full_backlog, serving, silent

pytestmark = pytest.mark.integration


async def ask(where: str, timeout: float = 0.3) -> Answer:
    return await TcpConnector().answer(where, timeout=timeout)


async def test_accepts_refusals_and_silence_are_told_apart() -> None:
    async with serving(silent) as port:
        assert await ask(f"127.0.0.1:{port}") == "accepted"
        assert await ask(f"localhost:{port}") == "accepted"
    assert await ask(f"127.0.0.1:{free_port()}") == "refused"
    async with full_backlog() as port:
        assert await ask(f"127.0.0.1:{port}") == "silent"


@pytest.mark.parametrize(
    "where", ["no-such-name.invalid:80", "127.0.0.1:0", "127.0.0.1:65536", "", "a..b:80"]
)
async def test_what_cannot_be_asked_says_nothing(where: str) -> None:
    assert await ask(where, 2) == "unasked"
    assert await TcpConnector().connects(where, timeout=2) is None


async def test_without_descriptors_nothing_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*arguments: int) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("orbitcontrol.probes.connect.socket.socket", exhausted)
    assert await ask("127.0.0.1:80") == "unasked"


async def test_an_answer_that_came_while_this_process_was_paused_is_not_silence() -> None:
    async def pause() -> None:
        await asyncio.sleep(0)  # the connects are under way, and nobody has looked at them yet
        time.sleep(0.2)  # noqa: ASYNC251 -- the whole process

    async with serving(silent) as port:
        found, refused, _ = await asyncio.gather(
            ask(f"127.0.0.1:{port}", 0.05), ask(f"127.0.0.1:{free_port()}", 0.05), pause()
        )
    assert (found, refused) == ("accepted", "refused")


async def test_a_connection_to_itself_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    real = socket.socket

    def bound(*arguments: int) -> socket.socket:
        connection = real(*arguments)
        connection.bind(("127.0.0.1", port))
        return connection

    monkeypatch.setattr("orbitcontrol.probes.connect.socket.socket", bound)
    assert await ask(f"127.0.0.1:{port}") == "refused"


LISTENER = """
import socket, sys
with socket.socket() as listener:
    listener.bind(("0.0.0.0", 1500))
    listener.listen(0)
    print("listening", flush=True)
    while True:
        listener.accept()[0].close()
"""


class Machine(Struct, frozen=True):
    """A network namespace with a listener in it, at the other end of a cable."""

    address: str
    nobody: str
    """An address in the same network that no machine has."""
    pid: int

    @property
    def check(self) -> str:
        return f"{self.address}:1500"

    def plug(self, state: str) -> None:
        """The cable, ``up`` or ``down``."""
        run("nsenter", f"--net=/proc/{self.pid}/ns/net", "ip", "link", "set", "eth0", state)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The listener is stopped, and its backlog full."""
        os.kill(self.pid, signal.SIGSTOP)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect((self.address, 1500))
        yield
        for filler in fillers:
            filler.close()


def run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=60)


@pytest.fixture
def machine() -> Iterator[Machine]:
    number = os.getpid()
    network = f"198.18.{(number >> 5) & 255}.{(number << 3) & 255}"
    first, _, last = network.rpartition(".")
    here, there, nobody = (f"{first}.{int(last) + host}" for host in (1, 2, 3))
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", sys.executable, "-c", LISTENER],
        stdout=subprocess.PIPE,
        text=True,
    )
    found = Machine(there, nobody, process.pid)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        cable = f"og{number}"
        run(*f"ip link add {cable} type veth peer name eth0 netns {process.pid}".split())
        run(*f"ip address add {here}/29 dev {cable}".split())
        run(*f"ip link set {cable} up".split())
        inside = ("nsenter", f"--net=/proc/{process.pid}/ns/net", "ip")
        run(*inside, *f"address add {there}/29 dev eth0".split())
        found.plug("up")
        yield found
    finally:
        process.kill()
        process.communicate(timeout=60)


@asynccontextmanager
async def looked_at(proofs: GoneProofs, *addresses: str) -> AsyncIterator[None]:
    """Somebody waits for the addresses, and reads again and again that none has a lease."""

    async def look() -> None:
        while True:
            checks = {address: f"{address}:1500" for address in addresses}
            proofs.look(addresses, begun=boot_time(), alive=(), balancers={}, checks=checks)
            await asyncio.sleep(0.05)

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def test_a_machine_is_gone_when_its_cable_is_out_and_not_when_it_is_frozen_or_refuses(
    machine: Machine, tmp_path: Path
) -> None:
    proofs = GoneProofs(
        connector=TcpConnector(), files=StateDirectory(tmp_path), problems=Problems(), ttl=1.0
    )
    closed = f"{machine.address}:{CLOSED_PORT}"
    async with running(proofs), looked_at(proofs, machine.address, machine.nobody):

        async def told(state: str, words: str = "") -> None:
            await until(
                proofs.judgements,
                lambda seen: (
                    machine.address in seen
                    and seen[machine.address].state == state
                    and words in seen[machine.address].reason
                ),
            )

        await told("alive", machine.check)
        with machine.frozen():
            assert await ask(machine.check, 1) == "silent"
            assert await ask(closed, 1) == "refused"
            await told("alive", closed)
            machine.plug("down")
            await told("gone")
            assert proofs.judgements.value[machine.nobody].state == "unknown"
            machine.plug("up")
            await told("alive", closed)
