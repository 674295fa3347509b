"""`powertrain bench`: the words of the benchmark room. Imports each word's module when it is called."""

from __future__ import annotations

import importlib

import rich_click as click

_COMMANDS = {
    "http": ("bench.commands.http", "http_command"),
    "compare": ("bench.commands.http", "compare_command"),
    "engine": ("bench.commands.engine", "engine_command"),
    "suite": ("bench.commands.suite", "suite_command"),
    "peers": ("bench.commands.peers", "peers_command"),
    "report": ("bench.commands.report", "report_command"),
    "prove": ("bench.commands.prove", "prove_command"),
    "mock": ("bench.commands.mock", "mock_command"),
}


class _LazyGroup(click.RichGroup):
    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{attribute} is not a command")
        return command


@click.group("bench", cls=_LazyGroup)
def bench_group() -> None:
    """Measure an endpoint or the runtime, with the formulas and the reasons to trust the figures beside them."""
