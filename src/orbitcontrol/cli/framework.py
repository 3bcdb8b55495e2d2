"""click, taught the two habits of ``orbitctl``.

*Global options anywhere.* ``orbitctl --store URL endpoints`` and ``orbitctl endpoints --store URL``
mean the same: every group and command carries the global options, and the innermost that was given
on the command line counts.

*One precedence.* A flag wins over ``ORBITCTL_<NAME>`` in the environment, that over a key of the
TOML file (``machine-address = "10.0.0.5"``), that over the default. It holds for every option of
every command, because click looks up variables by each option's ``envvar`` and the file through
``default_map``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import click
from click.core import ParameterSource

from orbitcontrol.cli.context import CommandContext
from orbitcontrol.errors import UsageError

DEFAULT_CONFIG_FILE = "/etc/orbitctl.toml"
_GIVEN = "orbitcontrol.given"
_FILE = "orbitcontrol.file"


def _variable(*declarations: str) -> str:
    name = next(part for part in declarations if part.startswith("--")).split("/")[0]
    return "ORBITCTL_" + name.removeprefix("--").replace("-", "_").upper()


def option(*declarations: str, **attributes: Any) -> Callable[[Any], Any]:
    """``click.option`` that can also be set by variable and by the configuration file."""
    return click.option(*declarations, envvar=_variable(*declarations), show_envvar=False, **attributes)


def _global(*declarations: str, **attributes: Any) -> click.Option:
    return click.Option(
        declarations, envvar=_variable(*declarations), expose_value=False, callback=_remember, **attributes
    )


def _global_options() -> list[click.Parameter]:
    return [
        _global("--store", metavar="URL", help="etcd://host:2379[,host2:2379] or sqlite:///path"),
        _global("--etcd-endpoint", metavar="URL", help="older spelling of --store: http://host:2379[,…]"),
        _global("--etcd-base-path", default="/orbit", metavar="PATH", help="where Orbit's keys begin"),
        _global("--etcd-user", metavar="USER[:PASSWORD]", help="password also from ORBITCTL_ETCD_PASSWORD"),
        _global("--etcd-cacert", metavar="FILE", help="CA of etcd's certificates"),
        _global("--etcd-cert", metavar="FILE", help="client certificate for etcd"),
        _global("--etcd-key", metavar="FILE", help="key of the client certificate"),
        _global("--config", metavar="FILE", help=f"settings in TOML (default: {DEFAULT_CONFIG_FILE})"),
        _global("--state-dir", default="/var/lib/orbitctl", metavar="DIR", help="the daemon's own files"),
        _global("--debug", is_flag=True, help="log more; show tracebacks"),
        _global("--log-format", type=click.Choice(["text", "json"]), default="text", help="of the log"),
        _global("--yes", "--force", is_flag=True, help="do not ask"),
    ]


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Keeps a global option's value: from the command line always, otherwise if nothing better is known."""
    name = parameter.name
    from_line = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    given: dict[str, tuple[bool, Any]] = context.find_root().meta.setdefault(_GIVEN, {})
    if from_line or not given.get(name, (False, None))[0]:
        given[name] = (from_line, value)
    return value


def _config_file(context: click.Context, arguments: list[str]) -> Mapping[str, Any]:
    """The settings file named on the command line, by variable, or at its default place."""
    named = _named_config(arguments) or context.find_root().meta.get(_FILE + ".name")
    context.find_root().meta[_FILE + ".name"] = named
    path = _settings_path(context)
    explicit = bool(named or os.environ.get("ORBITCTL_CONFIG"))
    if not explicit and not path.exists():
        return {}
    import tomllib  # noqa: PLC0415 -- most command lines have no such file

    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such settings file (--config)") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: the settings file cannot be read: {error}") from error
    return {key.replace("-", "_"): value for key, value in settings.items()}


def _named_config(arguments: list[str]) -> str | None:
    for position, argument in enumerate(arguments):
        if argument.startswith("--config="):
            return argument.removeprefix("--config=")
        if argument == "--config" and position + 1 < len(arguments):
            return arguments[position + 1]
    return None


_GLOBAL_NAMES = frozenset(parameter.name for parameter in _global_options())


def _settings_path(context: click.Context) -> Path:
    named = context.find_root().meta.get(_FILE + ".name")
    return Path(named or os.environ.get("ORBITCTL_CONFIG") or DEFAULT_CONFIG_FILE)


def _as_option(name: str) -> str:
    return name.replace("_", "-")


def _option_names(command: click.Command, context: click.Context) -> Iterator[str]:
    """The options of a command and of all commands below it, as the settings' names."""
    yield from (parameter.name for parameter in command.params if isinstance(parameter, click.Option))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                yield from _option_names(below, context)


class _Configured(click.Command):
    """A command or group whose options also come from the settings file, and that has the global ones."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.params.extend(_global_options())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        settings = _config_file(ctx, args)
        if ctx.parent is None:
            self._require_known(ctx, settings)
        ctx.default_map = cast(MutableMapping[str, Any], dict(settings))
        rest = super().parse_args(ctx, args)
        given: dict[str, tuple[bool, Any]] = ctx.find_root().meta[_GIVEN]
        ctx.obj = CommandContext.from_options({name: value for name, (_, value) in given.items()})
        return rest

    def _require_known(self, ctx: click.Context, settings: Mapping[str, Any]) -> None:
        """Refuses a settings file with a name that no option of any command has: it would do nothing."""
        if settings.keys() <= _GLOBAL_NAMES:
            return  # without importing every command to know its options
        known = set(_option_names(self, ctx))
        unknown = [name for name in settings if name not in known]
        if unknown:
            from orbitcontrol.codec.wording import nearest  # noqa: PLC0415 -- only mistakes need it

            near = nearest(unknown[0], known)
            hint = f"; did you mean {_as_option(near)}?" if near else ""
            raise UsageError(f"{_settings_path(ctx)}: there is no setting {_as_option(unknown[0])}{hint}")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the command's own options first and the global ones apart."""
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                (shared if parameter.name in _GLOBAL_NAMES else own).append(record)
        for title, records in (("Options", own), ("Global options", shared)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)


class OrbitCommand(_Configured):
    """A command with the global options."""


class LazyGroup(dict[str, tuple[str, str, str]]):
    """Commands by name: module, attribute, and the help line that needs no import."""


class OrbitGroup(_Configured, click.Group):
    """A group with the global options, whose commands may be imported when they are asked for."""

    command_class = OrbitCommand

    def __init__(self, *arguments: Any, lazy: LazyGroup | None = None, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self._lazy = lazy or LazyGroup()

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self._lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, attribute, _ = self._lazy[cmd_name]
        return cast(click.Command, getattr(import_module(module), attribute))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest name also for commands that are not imported yet."""
        word = args[0]
        if not word.startswith("-") and self.get_command(ctx, word) is None:
            raise click.UsageError(self.unknown_command(ctx, word), ctx)
        return super().resolve_command(ctx, args)

    def unknown_command(self, ctx: click.Context, word: str) -> str:
        """What is told about a word that is no command of this group."""
        from orbitcontrol.codec.wording import nearest  # noqa: PLC0415 -- only mistakes need it

        near = nearest(word, self.list_commands(ctx))
        return f"No such command '{word}'." + (f" Did you mean '{near}'?" if near else "")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if not self._lazy:
            super().format_commands(ctx, formatter)
            return
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in self._lazy.items()])
