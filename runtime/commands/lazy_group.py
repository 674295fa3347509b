"""A group of commands whose modules are imported when they are called, and the words that nearly name one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import rich_click as click

from runtime.did_you_mean import did_you_mean
from runtime.install import RUNTIME_MODULE, runtime_line


class LazyGroup(click.RichGroup):
    """``table`` maps each word to the module and the name of its command, in the order of the listing."""

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:  # noqa: ANN401 - click's
        super().__init__(*args, **kwargs)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The words, in the table's order."""
        del ctx
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of a word; None for a word that the table does not hold."""
        del ctx
        if cmd_name not in self._table:
            return None
        module, attribute = self._table[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{attribute} is not a command")
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; ONNX Runtime, which powertrain can be installed without, is missed in one line."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if error.name != RUNTIME_MODULE:
                raise
            # Not in a box, whose edges would be copied with the command.
            click.echo(f"powertrain: this needs ONNX Runtime, which is not installed: {runtime_line()}", err=True)
            ctx.exit(1)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names. A word that is none is told with those that are near it."""
        word = args[0]
        if word not in self._table and not word.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"No such command {word!r}.{did_you_mean(word, self._table)}", ctx)
        return super().resolve_command(ctx, args)
