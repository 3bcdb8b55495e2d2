"""What HAProxy's servers are after it was told to change them.

So that a batch can be planned from what the last one made, without asking again for thousands of
servers. It knows nothing of what others do, or of checks: HAProxy is asked again every few seconds, and
whenever it did something else than it was told to. It is held against the real HAProxy by tests.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from orbitcontrol.codec.haproxy_lines import Server, literal_address, server
from orbitcontrol.codec.haproxy_runtime import (
    Add,
    Command,
    EnableCheck,
    Remove,
    Running,
    RunningServer,
    SetAddress,
    SetState,
    SetUp,
    SetWeight,
)


def after(running: Running, commands: Sequence[Command]) -> Running:
    """The servers after commands that HAProxy has taken."""
    touched = {
        section: dict(running.get(section, {})) for section in {command.section for command in commands}
    }
    for command in commands:
        entries = touched[command.section]
        if isinstance(command, Add):
            line = server(command.server, command.address, command.options)
            entries[command.server] = loaded_server(line, added=True)
        elif isinstance(command, Remove):
            del entries[command.server]
        else:
            entries[command.server] = _changed(entries[command.server], command)
    return {name: entries for name, entries in {**running, **touched}.items() if entries}


def loaded_server(line: Server, *, added: bool = False) -> RunningServer:
    """How a server begins, from the file or when it is ``added`` at runtime."""
    host, port = literal_address(line.address) or _any(line.address)
    return RunningServer(
        host=host,
        port=port,
        admin="maint" if added or line.disabled else "ready",
        weight=line.weight,
        unchecked=added and "check" in line.options,
    )


def _any(address: str) -> tuple[str, int]:
    """``:80`` and ``*:80`` are any address; what has to be looked up is none yet."""
    host, _, port = address.rpartition(":")
    return ("0.0.0.0", int(port)) if host in ("", "*") and port.isdecimal() else ("", 0)  # noqa: S104 -- HAProxy's word


def _changed(runs: RunningServer, command: Command) -> RunningServer:
    match command:
        case SetState(state=state):
            return structs.replace(runs, admin=state, down=False)
        case SetWeight(weight=weight):
            return structs.replace(runs, weight=weight)
        case SetAddress(host=host, port=port):
            return structs.replace(runs, host=host, port=port)
        case EnableCheck(agent=False):
            return structs.replace(runs, unchecked=False)
        case SetUp():
            return structs.replace(runs, down=False)
        case _:
            return runs
