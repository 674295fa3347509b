"""The command line: maps each word to its room and imports the room when the word is called. Knows nothing else."""

from __future__ import annotations

import importlib

import rich_click as click

_COMMANDS = {
    "export": ("export.commands.export", "export_command", "Turn a checkpoint into a model package."),
    "inspect": ("export.commands.inspect", "inspect_command", "Show what a model package holds."),
    "engine": ("export.commands.engine", "engine_command", "Compile TensorRT plans into a package."),
    "serve": ("api.process.cli", "serve_command", "Serve a model package over HTTP."),
    "bench": ("bench.commands.bench", "bench_group", "Measure an endpoint or the runtime."),
    "doctor": ("runtime.loading.doctor_cli", "doctor_command", "Say what this machine can run and what is missing."),
}


class _LazyGroup(click.RichGroup):
    """A command group that imports a command's module only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{attribute} is not a command")
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="powertrain")
def main() -> None:
    """Checkpoint to ONNX graph, TensorRT plan and chat endpoint, measured at every step."""


if __name__ == "__main__":
    main()
