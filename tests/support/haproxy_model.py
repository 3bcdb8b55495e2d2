"""What HAProxy does to its servers when it is told to: a model for laws, checked against the real one.

See ``tests/integration/haproxy/test_model.py``.
"""

from __future__ import annotations

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
from orbitcontrol.codec.haproxy_text import Layout

Servers = dict[str, dict[str, RunningServer]]


def loads(layout: Layout) -> Servers:
    """The servers of an HAProxy that has just loaded the text."""
    return {
        name: {server.name: _fresh(server) for server in (*section.servers.values(), *section.others)}
        for name, section in layout.sections.items()
        if section.servers or section.others
    }


def does(running: Running, commands: tuple[Command, ...]) -> Servers:
    """The servers after the commands, every one of which must be possible."""
    servers = {section: dict(entries) for section, entries in running.items()}
    for command in commands:
        entries = servers.setdefault(command.section, {})
        if isinstance(command, Add):
            assert command.server not in entries, f"{command.where} exists already"
            line = server(command.server, command.address, command.options)
            entries[command.server] = _fresh(line, added=True)
        elif isinstance(command, Remove):
            assert entries[command.server].admin == "maint", f"{command.where} is not in maintenance"
            del entries[command.server]
        else:
            entries[command.server] = _changed(entries[command.server], command)
    return {section: entries for section, entries in servers.items() if entries}


def _fresh(server: Server, *, added: bool = False) -> RunningServer:
    host, colon, port = server.address.rpartition(":")
    place = ("0.0.0.0", int(port)) if colon and host in ("", "*") else literal_address(server.address)
    assert place is not None, f"the model looks up no names: {server.address}"
    return RunningServer(
        host=place[0],
        port=place[1],
        admin="maint" if added or server.disabled else "ready",
        weight=server.weight,
        unchecked=added and "check" in server.options,
    )


def _changed(server: RunningServer, command: Command) -> RunningServer:
    values = {field: getattr(server, field) for field in RunningServer.__struct_fields__}
    match command:
        case SetState(state=state):
            values |= {"admin": state, "down": False}
        case SetWeight(weight=weight):
            values["weight"] = weight
        case SetAddress(host=host, port=port):
            values |= {"host": host, "port": port}
        case EnableCheck(agent=False):
            values["unchecked"] = False
        case SetUp():
            values["down"] = False
    return RunningServer(**values)
