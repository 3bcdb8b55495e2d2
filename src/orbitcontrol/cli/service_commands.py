"""``service``: what runs, in which revision, and setting another."""

from __future__ import annotations

from functools import partial

import click

from orbitcontrol.cli.context import CommandContext
from orbitcontrol.cli.daemon_options import docker_host_option
from orbitcontrol.cli.framework import OrbitGroup
from orbitcontrol.cli.named_group import NamedGroup
from orbitcontrol.cli.output import Column, emit, emit_value, output_option, table
from orbitcontrol.cli.rollout_commands import (
    SERVICE,
    act_of,
    acted,
    history,
    pause,
    promote,
    relaunch,
    resume,
    rollback,
)
from orbitcontrol.cli.rollout_following import detach_option, patience_of, revision_text, timeout_option
from orbitcontrol.cli.rollout_words import STEP_COLUMNS, sentence
from orbitcontrol.cli.state_commands import ENDPOINT_COLUMNS, SERVICE_COLUMNS
from orbitcontrol.errors import UsageError
from orbitcontrol.ops import cluster as ops
from orbitcontrol.ops.deploying import Change, Verify, set_revision
from orbitcontrol.ops.rollout_views import RolloutView
from orbitcontrol.ops.views import ServiceView

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


_EXAMPLES = """\b
Examples:
  orbitctl service                                   all services
  orbitctl service web                               one, with its machines and endpoints
  orbitctl service web set revision R2               run another revision
  orbitctl service web set revision R2 on machine A  on one machine only
  orbitctl service web set revision R2 --no-verify   although its image cannot be found from here
  orbitctl service web unset revision                back to the tag in the tree
  orbitctl service web rollback                      back to the revision before
"""


@click.group(cls=NamedGroup, epilog=_EXAMPLES, invoke_without_command=True, subcommand_metavar="[COMMAND] …")
@click.argument("name", required=False)
@output_option
@click.pass_context
def service(context: click.Context, name: str | None, output: str) -> None:
    """Show all services, or one with its endpoints; set and unset its revision."""
    context.meta[SERVICE] = name
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


@set_.command(name="revision")
@click.argument("revision")
@click.argument("where", nargs=-1, metavar="[on machine ADDRESS]")
@detach_option
@timeout_option
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
    timeout: str | None,
    no_verify: bool,
    docker_host: str | None,
) -> int:
    """Run the service in this revision: the tag of its image.

    The image must be in this machine's Docker engine or in its registry, which is asked with the
    credentials of `docker login`.
    """
    verify = None if no_verify else _verify(docker_host)
    return _change(context, revision, where, detach=detach, timeout=timeout, verify=verify)


@unset.command(name="revision")
@click.argument("where", nargs=-1, metavar="[on machine ADDRESS]")
@detach_option
@timeout_option
@click.pass_context
def unset_revision(
    context: click.Context, where: tuple[str, ...], *, detach: bool, timeout: str | None
) -> int:
    """Run the service in the tag that the tree names."""
    return _change(context, None, where, detach=detach, timeout=timeout)


def _verify(docker_host: str | None) -> Verify:
    from orbitcontrol.ops.images import require_images  # noqa: PLC0415 -- libraries that only this needs

    return partial(require_images, docker_host=docker_host)


for _command in (rollback, history, pause, resume, promote, relaunch):
    service.add_command(_command)


def _change(
    context: click.Context,
    revision: str | None,
    where: tuple[str, ...],
    *,
    detach: bool,
    timeout: str | None,
    verify: Verify | None = None,
) -> int:
    """Writes the revision and follows its rollout; the exit code."""
    command: CommandContext = context.obj
    act = act_of(context)
    change = Change(
        service=act.service,
        id=act.id,
        user=act.user,
        time=act.time,
        revision=revision,
        machine=_machine(where),
    )
    return acted(
        command,
        change,
        lambda store: set_revision(store, command.keys, change, verify=verify),
        said=f"{revision_text(revision)} set",
        said_already=f"{revision_text(revision)} was set already",
        patience=patience_of(timeout, detach=detach),
    )


def _machine(where: tuple[str, ...]) -> str | None:
    match where:
        case ():
            return None
        case ("on", "machine", address):
            return address
        case _:
            raise UsageError(f"{' '.join(where)!r} is not understood; write: on machine ADDRESS")


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
        ("Rollout", sentence(view.rollout) if view.rollout else ""),
        *(_about(view.rollout) if view.rollout else ()),
        ("Origin", view.origin),
        ("CI", view.ci_url),
    ]
    for title, value in facts:
        if value:
            click.echo(f"{title + ':':<10}{value}")
    steps = [step for step in view.rollout.steps if step.step != "done"] if view.rollout else []
    sections = (
        (steps, STEP_COLUMNS),
        (view.instances, _INSTANCE_COLUMNS),
        (view.endpoints, ENDPOINT_COLUMNS),
        (view.problems, _PROBLEM_COLUMNS),
    )
    for rows, columns in sections:
        if rows:
            click.echo("\n" + table(rows, [column for column in columns if wide or not column.wide]))


def _about(rollout: RolloutView) -> list[tuple[str, str]]:
    """Why a rollout is as it is, and whom it waits for."""
    return [("Reason", rollout.reason.replace("\n", " ")), *(("Waits", line) for line in rollout.waits)]
