"""An HAProxy for laws: it loads texts and does what it is told, if that is possible.

What its servers are then is ``planning.server_model``, which is checked against the real one in
``tests/integration/haproxy/test_model.py``.
"""

from __future__ import annotations

from orbitcontrol.codec.haproxy_runtime import Add, Command, Remove, Running, RunningServer
from orbitcontrol.codec.haproxy_text import Layout
from orbitcontrol.planning.server_model import after, loaded_server

Servers = dict[str, dict[str, RunningServer]]


def loads(layout: Layout) -> Servers:
    """The servers of an HAProxy that has just loaded the text."""
    servers: Servers = {}
    for name, section in layout.sections.items():
        for line in (*section.servers.values(), *section.others):
            server = servers.setdefault(name, {})[line.name] = loaded_server(line)
            assert server.host, f"the model looks up no names: {line.address}"
    return servers


def does(running: Running, commands: tuple[Command, ...]) -> Servers:
    """The servers after the commands, every one of which must be possible."""
    servers = {name: dict(entries) for name, entries in running.items()}
    for command in commands:
        runs = servers.get(command.section, {}).get(command.server)
        assert (runs is None) is isinstance(command, Add), f"{command.where}: {command.text()}"
        if isinstance(command, Remove):
            assert runs is not None
            assert runs.admin == "maint", f"{command.where} is not in maintenance"
        servers = {name: dict(entries) for name, entries in after(servers, [command]).items()}
    return servers
