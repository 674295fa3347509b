"""docs/reference/commands.md, made from the parsers of the command line. Runs no command."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import fill

import click

from powertrain import main
from tests.docs.made.cells import code, plain, row

_HEAD = """# Commands

Made from the command line's own parsers; `powertrain COMMAND --help` prints the same. What MODEL may be, and what holds
for all commands, is in [the command line](../command-line.md).
"""


def commands() -> Iterator[tuple[click.Context, click.Command]]:
    """Every command that is no group, in the order of the listing, with the context that names it."""
    yield from _below(click.Context(main, info_name="powertrain"), main)


def page() -> str:
    """The whole page, Markdown: one section for each command."""
    return _HEAD + "".join(_section(context, command) for context, command in commands())


def _below(context: click.Context, command: click.Command) -> Iterator[tuple[click.Context, click.Command]]:
    if not isinstance(command, click.Group):
        yield context, command
        return
    for name in command.list_commands(context):
        if child := command.get_command(context, name):
            yield from _below(click.Context(child, info_name=name, parent=context), child)


def _section(context: click.Context, command: click.Command) -> str:
    lines = ["", f"## `{context.command_path}`", "", *_text(command.help or "")]
    lines += ["```text", f"{context.command_path} {' '.join(command.collect_usage_pieces(context))}", "```", ""]
    if context.command_path == "powertrain serve":
        lines += ["Each [setting of the server](settings.md) is an option, and beside them there are:", ""]
    options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
    if context.command_path == "powertrain serve":
        options = [option for option in options if option.name in {"config_file", "print_config"}]
    lines += _options(options, context)
    examples = [line.strip() for line in (command.epilog or "").split("\n\n")[1:] if line.strip()]
    if examples:
        lines += ["", "```text", *examples, "```"]
    return "\n".join(lines) + "\n"


def _text(help_text: str) -> list[str]:
    paragraphs = help_text.replace("\b", "").split("\n\n")
    return [part for text in paragraphs for part in (fill(plain(text).replace("\\|", "|"), 120), "")]


def _options(options: list[click.Option], context: click.Context) -> list[str]:
    if not options:
        return ["No options."]
    lines = [row("option", "value", "default", "meaning"), row(*["---"] * 4)]
    for option in options:
        names = ", ".join(code(name) for name in [*option.opts, *option.secondary_opts])
        value = "" if option.is_flag or option.count else code(option.make_metavar(context))
        lines.append(row(names, value, _default(option), plain(option.help or "")))
    return lines


def _default(option: click.Option) -> str:
    shown = option.to_info_dict()["default"]
    if option.required:
        return "needed"
    if (
        option.is_flag
        or shown is None
        or shown in ((), [], "", False)
        or not isinstance(shown, str | int | float | tuple | list)
    ):
        return ""
    return code(",".join(map(str, shown)) if isinstance(shown, tuple | list) else shown)
