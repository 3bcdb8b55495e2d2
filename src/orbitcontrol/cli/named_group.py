"""Groups of commands on one thing that is named first: ``service web pause``, ``machine 10.0.0.5 drain``."""

from __future__ import annotations

import click

from orbitcontrol.cli.framework import OrbitGroup


class NamedGroup(OrbitGroup):
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
        """Most often the name was forgotten, or a verb of another program was meant."""
        [argument] = [each for each in self.params if isinstance(each, click.Argument)]
        name, metavar = ctx.params.get(str(argument.name)), argument.metavar or str(argument.name).upper()
        if name in self.commands:
            return f"No {self.name} is named before '{name}': orbitctl {self.name} {metavar} {name} {word} …"
        return f"'{word}' cannot be done with a {self.name}; what can is: {', '.join(self.commands)}."


def _takes_value(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and not parameter.is_flag
