"""``service``: what runs, in which revision, and setting another."""

from __future__ import annotations

import asyncio
from functools import partial

import click

from orbitcontrol.cli.context import CommandContext, utc_now
from orbitcontrol.cli.daemon_options import docker_host_option
from orbitcontrol.cli.framework import OrbitGroup
from orbitcontrol.cli.output import Column, emit, emit_value, output_option, table
from orbitcontrol.cli.state_commands import ENDPOINT_COLUMNS, SERVICE_COLUMNS
from orbitcontrol.errors import UsageError
from orbitcontrol.ops import cluster as ops
from orbitcontrol.ops.cluster import ServiceView
from orbitcontrol.ops.deploying import Change, InstanceProgress, Verify, follow, set_revision
from orbitcontrol.ports import Store

NOT_FINISHED = 4
_PATIENCE = 120.0

_INSTANCE_COLUMNS = (
    Column("MACHINE", lambda view: view.machine),
    Column("INSTANCE", lambda view: view.instance),
    Column("STATE", lambda view: view.state),
    Column("REVISION", lambda view: view.revision),
    Column("REASON", lambda view: view.reason.replace("\n", " ")),
)
_PROBLEM_COLUMNS = (
    Column("MACHINE", lambda problem: problem.subject),
    Column("PROBLEM", lambda problem: problem.reason.replace("\n", " ")),
)


class _ServiceGroup(OrbitGroup):
    """A group whose own options may follow NAME, as people write them: ``service web -o json``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        taking = {name for parameter in self.params for name in parameter.opts if _takes_value(parameter)}
        options: list[str] = []
        names: list[str] = []
        rest = list(args)
        while rest and not (names and rest[0] in self.commands):
            word = rest.pop(0)
            if word.startswith("-") and word != "-":
                options += [word, rest.pop(0)] if word in taking and rest else [word]
            else:
                names.append(word)
        return super().parse_args(ctx, [*options, *names, *rest])

    def unknown_command(self, ctx: click.Context, word: str) -> str:
        """Most often the service's name was forgotten, or a verb of another program was meant."""
        name = ctx.params.get("name")
        if name in self.commands:
            return f"No service is named before '{name}': orbitctl service NAME {name} {word} …"
        return f"'{word}' cannot be done with a service; what can is: {', '.join(self.commands)}."


def _takes_value(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and not parameter.is_flag


_EXAMPLES = """\b
Examples:
  orbitctl service                                   all services
  orbitctl service web                               one, with its machines and endpoints
  orbitctl service web set revision R2               run another revision
  orbitctl service web set revision R2 on machine A  on one machine only
  orbitctl service web set revision R2 --no-verify   although its image cannot be found from here
  orbitctl service web unset revision                back to the tag in the tree
"""


@click.group(
    cls=_ServiceGroup, epilog=_EXAMPLES, invoke_without_command=True, subcommand_metavar="[set|unset] …"
)
@click.argument("name", required=False)
@output_option
@click.pass_context
def service(context: click.Context, name: str | None, output: str) -> None:
    """Show all services, or one with its endpoints; set and unset its revision."""
    context.meta["orbitcontrol.service"] = name
    if context.invoked_subcommand is not None:
        return
    command: CommandContext = context.obj
    cluster = command.with_store(lambda store: ops.read_cluster(store, command.keys))
    if name is None:
        emit(ops.service_views(cluster), SERVICE_COLUMNS, output=output, empty="there are no services")
        return
    view = ops.service_view(cluster, name)
    if output in {"json", "yaml"}:
        emit_value(view, output=output)
    else:
        _print_service(view, wide=output == "wide")


@service.group(name="set", cls=OrbitGroup)
def set_() -> None:
    """Set the revision."""


@service.group(name="unset", cls=OrbitGroup)
def unset() -> None:
    """Take the revision back."""


_detach = click.option("--detach", is_flag=True, help="do not wait until it has arrived")


@set_.command(name="revision")
@click.argument("revision")
@click.argument("where", nargs=-1, metavar="[on machine ADDRESS]")
@_detach
@click.option("--no-verify", is_flag=True, help="do not look whether the image exists")
@docker_host_option
@click.pass_context
def set_revision_(
    context: click.Context,
    /,
    revision: str,
    where: tuple[str, ...],
    *,
    detach: bool,
    no_verify: bool,
    docker_host: str | None,
) -> int:
    """Run the service in this revision: the tag of its image.

    The image must be in this machine's Docker engine or in its registry, which is asked with the
    credentials of `docker login`.
    """
    return _change(
        context, revision, where, detach=detach, verify=None if no_verify else _verify(docker_host)
    )


@unset.command(name="revision")
@click.argument("where", nargs=-1, metavar="[on machine ADDRESS]")
@_detach
@click.pass_context
def unset_revision(context: click.Context, where: tuple[str, ...], detach: bool) -> int:  # noqa: FBT001
    """Run the service in the tag that the tree names."""
    return _change(context, None, where, detach=detach)


def _verify(docker_host: str | None) -> Verify:
    from orbitcontrol.ops.images import require_images  # noqa: PLC0415 -- libraries that only this needs

    return partial(require_images, docker_host=docker_host)


def _change(
    context: click.Context,
    revision: str | None,
    where: tuple[str, ...],
    *,
    detach: bool,
    verify: Verify | None = None,
) -> int:
    """Writes the revision and follows it; the exit code."""
    command: CommandContext = context.obj
    change = Change(
        service=context.meta["orbitcontrol.service"],
        revision=revision,
        machine=_machine(where),
        user=command.user,
        time=utc_now(),
    )
    target = f"revision {revision}" if revision else "the tree's revision"
    see = f"see `orbitctl service {change.service}`"

    async def work(store: Store) -> int:
        if await set_revision(store, command.keys, change, verify=verify):
            click.echo(f"service {change.service}: {target} set", err=True)
        else:
            click.echo(f"service {change.service}: {target} was set already", err=True)
        if detach:
            return 0
        last: tuple[InstanceProgress, ...] = ()
        try:
            async for progress in follow(store, command.keys, change, patience=_PATIENCE):
                _print_progress(progress, last)
                last = progress
        except asyncio.CancelledError:
            click.echo(f"{target} stays set and goes on by itself: {see}", err=True)
            raise
        if all(item.arrived >= item.wanted for item in last):
            return 0
        click.echo(
            f"service {change.service}: not everywhere after {_PATIENCE:.0f} s; it goes on by itself: {see}",
            err=True,
        )
        return NOT_FINISHED

    return command.with_store(work)


def _machine(where: tuple[str, ...]) -> str | None:
    match where:
        case ():
            return None
        case ("on", "machine", address):
            return address
        case _:
            raise UsageError(f"{' '.join(where)!r} is not understood; write: on machine ADDRESS")


def _print_progress(progress: tuple[InstanceProgress, ...], before: tuple[InstanceProgress, ...]) -> None:
    """A line for each machine that has moved since the last time."""
    if not progress:
        click.echo("no machine that is alive runs this service", err=True)
    for item in progress:
        if item not in before:
            trouble = f": {item.trouble}" if item.trouble and item.arrived < item.wanted else ""
            click.echo(f"  {item.machine}  {item.arrived}/{item.wanted}{trouble}", err=True)


def _print_service(view: ServiceView, *, wide: bool) -> None:
    """One service for people: facts, then what runs, where it answers, and what is wrong."""
    facts = [
        ("Service", view.service),
        (
            "Revision",
            f"{view.revision} (set by {view.revision_set_by})" if view.revision_set_by else view.revision,
        ),
        ("Image", view.image),
        ("Tags", ", ".join(view.tags)),
        ("Up", f"{view.up} of {view.wanted}"),
        ("Origin", view.origin),
        ("CI", view.ci_url),
    ]
    for title, value in facts:
        if value:
            click.echo(f"{title + ':':<10}{value}")
    sections = (
        (view.instances, _INSTANCE_COLUMNS),
        (view.endpoints, ENDPOINT_COLUMNS),
        (view.problems, _PROBLEM_COLUMNS),
    )
    for rows, columns in sections:
        if rows:
            click.echo("\n" + table(rows, [column for column in columns if wide or not column.wide]))
