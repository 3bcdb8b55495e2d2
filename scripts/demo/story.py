"""The story that the demo tells: each step does something and waits until it is seen to work.

It asserts on nothing but answers through HAProxy, as a user of the services would see them.
"""

from __future__ import annotations

import http
import http.client
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Self

import show
from processes import Failed, end_all_naming, start, stop, wait_until

_TREE = "examples/quickstart"
_PROXY, _CLOCK, _CHECK = 8080, 8081, 1500
_PORTS = {_PROXY: "HAProxy", _CLOCK: "the example's clock", _CHECK: "the daemon's /check"}
_ANSWER = re.compile(r"web: revision (?P<revision>\S+), container (?P<container>\S+)")
_IMAGE = "quickstart-web"
_NAMES = ("web-1", "web-2")
_ADDRESS = "127.0.0.1"
_MACHINE_LABEL = "orbitcontrol.machine"
_SETTLED = 6
"""So many answers in a row decide what HAProxy serves: it takes its servers in turns."""


class Answer(NamedTuple):
    """What the web service said: which revision, which container (the first 12 digits of its id)."""

    revision: str
    container: str


class Story:
    """A context in which the quickstart runs; whatever it started is ended afterwards."""

    def __init__(self, directory: Path, *, docker_host: str) -> None:
        self._directory = directory
        self._docker_host = docker_host
        self._bin = Path(sys.executable).parent
        self._store = f"sqlite://{directory}/store.db"
        self._env = {
            name: value for name, value in os.environ.items() if not name.startswith("ORBITCTL_")
        } | {
            "PATH": f"{self._bin}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "DOCKER_HOST": docker_host,
            "ORBITCTL_STORE": self._store,
        }
        self._env.pop("DOCKER_CONTEXT", None)  # it would win over DOCKER_HOST
        self._stack = ExitStack()
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if there := self._containers():
            raise Failed(
                f"the Docker engine at {self._docker_host} has containers that the demo's daemon would take "
                f"for its own: {', '.join(there)}. End the other demo, or the Orbit that runs them; "
                "what nobody needs any more goes with `docker rm --force`"
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @staticmethod
    def check_ports() -> None:
        """Fails with a clear message when somebody else uses a port of the example."""
        taken = [port for port in _PORTS if not _is_free(port)]
        if taken:
            listed = " and ".join(f"{port} (for {_PORTS[port]})" for port in taken)
            raise Failed(
                f"something on this machine uses port {listed} of 127.0.0.1: end it first "
                f"(`ss -ltnp 'sport = :{taken[0]}'` names it)"
            )

    def tell(self) -> None:
        """All steps in their order; the first one that does not work raises Failed."""
        self._prepare()
        self._import()
        self._start_daemon()
        first = self._wait_for_both("R1", "both instances answer through HAProxy", timeout=60)
        self._show_clock()
        self._look_around()
        self._kill(min(first), known=first)
        self._deploy()

    def stay(self) -> None:
        """Says what to try next, and returns only by an exception: Ctrl-C, or the daemon's end."""
        show.heading("It runs. In another terminal, try")
        show.output(self._what_to_try())
        show.line()
        show.line("Ctrl-C ends the demo and cleans up.")
        code = self._running_daemon().wait()
        raise Failed(f"the daemon has ended by itself, with exit code {code}")

    def _prepare(self) -> None:
        show.heading("Two revisions of a web service as images, and a clock that Orbit does not run")
        self._stack.callback(self._remove_images)
        self._run("examples/programs/build-web-image", "R1", "R2")
        command = ["python3", "examples/programs/clock.py", str(_CLOCK)]
        show.command(command, background=True)
        clock = start([sys.executable, *command[1:]], log=self._directory / "clock.log")
        self._stack.callback(stop, clock)
        if not wait_until(lambda: _get(_CLOCK, "/") is not None, timeout=10):
            raise Failed("the clock does not answer")

    def _import(self) -> None:
        show.heading("The configuration tree goes into an empty store")
        show.line(f"ORBITCTL_STORE={self._store}")
        self._run("orbitctl", "validate", _TREE)
        self._run("orbitctl", "import", _TREE)

    def _start_daemon(self) -> None:
        show.heading(
            "One daemon: it starts containers, checks services, publishes endpoints and runs HAProxy"
        )
        at = self._directory
        command = [
            *("orbitctl", "daemon", "--machine-address", _ADDRESS, "--machine-tags", "app,lb"),
            *("--haproxy-managed", "--haproxy-config-path", f"{at}/haproxy"),
            *("--state-dir", f"{at}/state", "--docker-host", self._docker_host),
        ]
        show.command(command, background=True)
        self._stack.callback(self._remove_containers)
        self._stack.callback(end_all_naming, f"{at}/haproxy/")
        self._daemon = start(
            [str(self._bin / "orbitctl"), *command[1:]],
            log=at / "daemon.log",
            env=self._env,
        )
        self._stack.callback(stop, self._daemon)

    def _show_clock(self) -> None:
        said = None

        def says_the_time() -> bool:
            nonlocal said
            said = _get(_PROXY, "/clock")
            return said is not None and said.startswith("clock:")

        show.command(["curl", f"http://127.0.0.1:{_PROXY}/clock"])
        if not wait_until(says_the_time, timeout=20):
            raise Failed(f"the clock does not answer through HAProxy; the last answer was {said!r}")
        show.output(said or "")

    def _look_around(self) -> None:
        show.heading("What Orbit knows")
        self._run("orbitctl", "service")
        self._run("orbitctl", "endpoints")

    def _kill(self, victim: str, *, known: frozenset[str]) -> None:
        show.heading("A container is killed")
        name = self._read("docker", "inspect", "--format", "{{.Name}}", victim).strip().removeprefix("/")
        failed = 0
        killed = time.monotonic()
        self._run("docker", "kill", name)
        for asked, said in enumerate(self._answers(timeout=30), start=1):
            failed += said is None
            if said and said.container not in known:
                took = time.monotonic() - killed
                show.line(f"Back after {took:.2f} s, as container {said.container}.")
                lost = f"{failed} failed" if failed else "none failed: the other instance took them"
                show.line(f"{asked} requests were made meanwhile, {lost}.")
                break
        else:
            raise Failed(f"nothing replaced {name} within 30 s")
        self._wait_for_both("R1", "both instances answer again", timeout=30, without=victim)

    def _deploy(self) -> None:
        show.heading("A new revision")
        started = time.monotonic()
        self._run("orbitctl", "service", "web", "set", "revision", "R2", timeout=120)
        self._wait_for_both("R2", "both instances serve the new revision", timeout=90)
        show.line(f"That took {time.monotonic() - started:.1f} s.")
        self._run("orbitctl", "service", "web")

    def _wait_for_both(
        self, revision: str, what: str, *, timeout: float, without: str = ""
    ) -> frozenset[str]:
        """Waits until the last answers alternate between two containers of the revision; the two."""
        recent: list[Answer | None] = []
        for said in self._answers(timeout=timeout):
            recent = [*recent, said][-_SETTLED:]
            answers = [
                each for each in recent if each and each.revision == revision and each.container != without
            ]
            containers = frozenset(each.container for each in answers)
            if len(answers) == _SETTLED and len(containers) == 2:
                _show_turns(answers)
                show.line(f"Seen: {what}.")
                return containers
        raise Failed(f"waited {timeout:.0f} s in vain for this: {what}; the last answers were {recent}")

    def _answers(self, *, timeout: float) -> Iterator[Answer | None]:
        """What the web service says through HAProxy, 40 times a second; None for no proper answer."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if (code := self._running_daemon().poll()) is not None:
                raise Failed(f"the daemon has ended by itself, with exit code {code}")
            match = _ANSWER.match(_get(_PROXY, "/") or "")
            yield Answer(**match.groupdict()) if match else None
            time.sleep(0.025)

    def _running_daemon(self) -> subprocess.Popen[bytes]:
        if self._daemon is None:
            raise Failed("the daemon was not started")
        return self._daemon

    def _run(self, *command: str, timeout: float = 60) -> None:
        """Runs a command as a person would, and shows what it says."""
        show.command(command)
        ended = self._execute(*command, timeout=timeout)
        said = (ended.stderr + ended.stdout).strip()
        if said:
            show.output(said)
        if ended.returncode != 0:
            raise Failed(f"`{shlex.join(command)}` ended with exit code {ended.returncode}")

    def _read(self, *command: str) -> str:
        """What a command says on its standard output, unseen."""
        ended = self._execute(*command, timeout=30)
        if ended.returncode != 0:
            raise Failed(f"`{shlex.join(command)}` failed: {ended.stderr.strip()}")
        return ended.stdout

    def _execute(self, *command: str, timeout: float) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"`{shlex.join(command)}` had not ended after {timeout:.0f} s") from error

    def _containers(self) -> list[str]:
        """The names of all containers that are, or would be taken for, the demo's, ended ones too."""
        form = f'{{{{.Names}}}} {{{{.Label "{_MACHINE_LABEL}"}}}}'
        listed = (
            line.split(" ") for line in self._read("docker", "ps", "--all", "--format", form).splitlines()
        )
        return [name for name, machine in listed if machine == _ADDRESS or name in _NAMES]

    def _remove_containers(self) -> None:
        if names := self._containers():
            self._execute("docker", "rm", "--force", "--volumes", *names, timeout=60)

    def _remove_images(self) -> None:
        self._execute("docker", "image", "rm", f"{_IMAGE}:R1", f"{_IMAGE}:R2", timeout=60)

    def _what_to_try(self) -> str:
        return f"""\
cd {shlex.quote(str(Path.cwd()))}
export PATH="$PWD/.venv/bin:$PATH"
export ORBITCTL_STORE={self._store}
export DOCKER_HOST={self._docker_host}
export TREE={self._directory}/tree

curl http://127.0.0.1:{_PROXY}/                       # and again: the other instance
orbitctl status                                   # the whole cluster on one screen
orbitctl endpoints
orbitctl service web set revision R1              # back to the first revision
docker kill web-1; orbitctl service web           # gone, and back
orbitctl export $TREE                             # the configuration as files: edit them,
orbitctl plan $TREE                               # look at what would change,
orbitctl import $TREE                             # and make it so
tail -f {self._directory}/daemon.log"""


def _show_turns(answers: list[Answer]) -> None:
    """Two answers in a row that came from different containers."""
    for one, other in pairwise(answers):
        if one.container != other.container:
            for each in (one, other):
                show.command(["curl", f"http://127.0.0.1:{_PROXY}/"])
                show.output(f"web: revision {each.revision}, container {each.container}")
            return


def _get(port: int, path: str) -> str | None:
    """The body of a 200 within a second, else None. One connection a request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.read().decode(errors="replace") if response.status == http.HTTPStatus.OK else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
