"""`powertrain bench`: the words of the benchmark room. Imports each word's module when it is called."""

from __future__ import annotations

import importlib

import rich_click as click

_COMMANDS = {
    "http": ("bench.http_cli", "http_command"),
    "compare": ("bench.http_cli", "compare_command"),
    "engine": ("bench.engine_cli", "engine_command"),
    "suite": ("bench.suite_cli", "suite_command"),
    "peers": ("bench.peers.cli", "peers_command"),
    "report": ("bench.report_cli", "report_command"),
    "prove": ("bench.prove_cli", "prove_command"),
    "mock": ("bench.mock_cli", "mock_command"),
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
