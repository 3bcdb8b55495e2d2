"""``endpoints``, ``tags``, ``machines`` and ``status``: what the store says of the cluster."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import partial

import click
import msgspec

from orbitcontrol.cli.context import CommandContext
from orbitcontrol.cli.framework import OrbitCommand
from orbitcontrol.cli.output import Column, emit, emit_value, output_option, table
from orbitcontrol.cli.rollout_words import cause, left, what
from orbitcontrol.cli.times import age
from orbitcontrol.errors import StoreError, UsageError
from orbitcontrol.model.state import Problem
from orbitcontrol.ops import cluster as ops
from orbitcontrol.ops.views import MachineView, ServiceView
from orbitcontrol.ports import Store

FIELDS = ("ip", "port", "endpoint", "revision", "zone", "machine", "state", "service", "instance")

ENDPOINT_COLUMNS = (
    Column("SERVICE", lambda view: view.service),
    Column("ENDPOINT", lambda view: view.endpoint),
    Column("STATE", lambda view: view.state),
    Column("REVISION", lambda view: view.revision),
    Column("MACHINE", lambda view: view.machine),
    Column("INSTANCE", lambda view: view.instance, wide=True),
    Column("ZONE", lambda view: view.zone, wide=True),
)


def _haproxy(view: MachineView) -> str:
    """HAProxy's verdict, and how many of its processes are still leaving after reloads."""
    verdict = view.haproxy.partition("\n")[0]
    if not view.leaving_workers:
        return verdict
    return f"{verdict}, {view.leaving_workers} leaving{age(view.leaving_since)}".removeprefix(", ")


def _reload(view: MachineView) -> str:
    """Why HAProxy was reloaded for the last time, and how long ago."""
    return f"{view.reload_reason}{age(view.reloaded).replace(' for ', ', ')} ago" if view.reloaded else ""


def _state(view: MachineView) -> str:
    """``ready``, and whether the machine is to be empty."""
    return f"{view.state}, {view.drain}" if view.drain else view.state


MACHINE_COLUMNS = (
    Column("MACHINE", lambda view: view.address),
    Column("STATE", _state),
    Column("TAGS", lambda view: view.tags),
    Column("ENDPOINTS", lambda view: view.endpoints),
    Column("HAPROXY", _haproxy),
    Column("PROBLEMS", lambda view: len(view.problems)),
    Column("ZONE", lambda view: view.zone, wide=True),
    Column("VERSION", lambda view: view.version, wide=True),
    Column("SESSION", lambda view: view.session, wide=True),
    Column("RELOADED", _reload, wide=True),
)
TAG_COLUMNS = (
    Column("TAG", lambda view: view.tag),
    Column("SERVICES", lambda view: view.services),
    Column("HAPROXY", lambda view: "template" if view.template else ""),
    Column("MACHINES", lambda view: view.machines),
    Column("CERTS", lambda view: view.certs, wide=True),
    Column("FILES", lambda view: view.haproxy_files, wide=True),
)
SERVICE_COLUMNS = (
    Column("SERVICE", lambda view: view.service),
    Column("REVISION", lambda view: view.revision),
    Column("UP", lambda view: f"{view.up}/{view.wanted}"),
    Column("TAGS", lambda view: view.tags),
    Column("IMAGE", lambda view: view.image),
    Column("SET BY", lambda view: view.revision_set_by, wide=True),
    Column("ORIGIN", lambda view: view.origin, wide=True),
)
_PROBLEM_COLUMNS = (
    Column("WHERE", lambda problem: problem.subject),
    Column("PROBLEM", lambda problem: problem.reason.replace("\n", " ")),
)

_ROLLOUT_COLUMNS = (
    Column("ROLLOUT OF", lambda view: view.service),
    Column("STATE", lambda view: view.rollout.state),
    Column("CAUSE", lambda view: cause(view.rollout)),
    Column("WHAT", lambda view: what(view.rollout)),
    Column("BY", lambda view: view.rollout.user),
    Column("SINCE", lambda view: view.rollout.started),
    Column("WAITS", lambda view: left(view.rollout)),
    Column("ID", lambda view: view.rollout.id, wide=True),
)

_WATCH_PAUSE = 1.0


class Status(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The record that ``status`` prints as JSON."""

    store: str
    generation: int
    imported_at: str
    imported_by: str
    commit: str
    machines: list[MachineView]
    services: list[ServiceView]
    problems: list[Problem]


@click.command(cls=OrbitCommand)
@click.argument("name", required=False)
@click.option("--fields", metavar="FIELD,…", help=f"print only these, without titles: {', '.join(FIELDS)}")
@output_option
@click.pass_obj
def endpoints(context: CommandContext, name: str | None, fields: str | None, output: str) -> None:
    """List the endpoints in the store, of all services or of one."""
    wanted = _fields(fields)
    views = context.with_store(lambda store: ops.read_endpoints(store, context.keys, name))
    if wanted is None:
        subject = f"service {name} has" if name else "there are"
        emit(views, ENDPOINT_COLUMNS, output=output, empty=f"{subject} no endpoints")
    elif output in {"json", "yaml"}:
        rows = [{field.capitalize(): getattr(view, field) for field in wanted} for view in views]
        emit_value(rows, output=output)
    else:
        for view in views:
            click.echo("\t".join(str(getattr(view, field)) for field in wanted))


@click.command(cls=OrbitCommand)
@output_option
@click.pass_obj
def tags(context: CommandContext, output: str) -> None:
    """List the tags, what is bound to them and the machines that carry them."""
    views = ops.tag_views(context.with_store(lambda store: ops.read_cluster(store, context.keys)))
    emit(views, TAG_COLUMNS, output=output, empty="there are no tags: run orbitctl import")


@click.command(cls=OrbitCommand)
@output_option
@click.pass_obj
def machines(context: CommandContext, output: str) -> None:
    """List the machines: alive or gone, their tags, and what is wrong with them."""
    views = ops.machine_views(context.with_store(lambda store: ops.read_cluster(store, context.keys)))
    emit(views, MACHINE_COLUMNS, output=output, empty="no machine has registered: start orbitctl daemon")


@click.command(cls=OrbitCommand)
@click.option("--watch", is_flag=True, help="go on, and show it anew when something changes, until Ctrl-C")
@output_option
@click.pass_obj
def status(context: CommandContext, /, *, watch: bool, output: str) -> None:
    """Show the whole cluster on one screen: machines, services, and what is wrong and why."""

    async def read(store: Store) -> Status:
        return _status_of(await ops.read_cluster(store, context.keys))

    async def show_once(store: Store) -> None:
        _show_status(await read(store), output=output)

    context.with_store(partial(_watch, read, output=output) if watch else show_once)


async def _watch(read: Callable[[Store], Awaitable[Status]], store: Store, *, output: str) -> None:
    """Shows each change, in place of what was there before where that is a terminal. Never returns.

    A store that goes away in the meantime is told and asked again: whoever watches mostly does so
    because something is going wrong.
    """
    shown: Status | None = None
    told = ""
    while True:
        try:
            record = await read(store)
        except StoreError as error:
            if shown is None and not told:
                raise
            if str(error) != told:
                click.echo(f"{error}; above is what it said before", err=True)
            shown, told = None, str(error)
        else:
            if record != shown:
                if sys.stdout.isatty():
                    click.clear()
                elif output == "yaml":
                    click.echo("---")
                _show_status(record, output=output)
            shown, told = record, ""
        await asyncio.sleep(_WATCH_PAUSE)


def _status_of(cluster: ops.Cluster) -> Status:
    meta = cluster.meta
    return Status(
        store=cluster.store,
        generation=meta.generation if meta else 0,
        imported_at=meta.imported_at if meta else "",
        imported_by=meta.imported_by if meta else "",
        commit=(meta.source.commit or "") if meta else "",
        machines=ops.machine_views(cluster),
        services=ops.service_views(cluster),
        problems=ops.problems(cluster),
    )


def _show_status(record: Status, *, output: str) -> None:
    if output in {"json", "yaml"}:
        emit_value(record, output=output)
    else:
        _print_status(record, wide=output == "wide")
    sys.stdout.flush()


def _print_status(record: Status, *, wide: bool) -> None:
    """The screen for people."""
    imported = f"generation {record.generation}, imported {record.imported_at} by {record.imported_by}"
    click.echo(f"{record.store}: {imported if record.generation else 'no configuration'}")
    sections = (
        (record.machines, MACHINE_COLUMNS, "no machine has registered"),
        (record.services, SERVICE_COLUMNS, "no services"),
        (_open_rollouts(record.services), _ROLLOUT_COLUMNS, ""),
        (record.problems, _PROBLEM_COLUMNS, "nothing is wrong"),
    )
    for rows, columns, empty in sections:
        shown = [column for column in columns if wide or not column.wide]
        if rows or empty:
            click.echo("\n" + (table(rows, shown) if rows else empty))


def _open_rollouts(services: list[ServiceView]) -> list[ServiceView]:
    """The services whose rollout is not complete."""
    return [each for each in services if each.rollout is not None and each.rollout.state != "complete"]


def _fields(fields: str | None) -> list[str] | None:
    if fields is None:
        return None
    wanted = [field.strip().lower() for field in fields.split(",")]
    for field in wanted:
        if field not in FIELDS:
            raise UsageError(f"--fields: there is no field {field!r}; choose from {', '.join(FIELDS)}")
    return wanted
