"""Puts words of ``powertrain`` before the real parsers, without running a command."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO

import click

from powertrain import main

_MISSING = ("does not exist", "there is no package at", "there is no package called")


def wrong_in(words: list[str], *, is_part: bool = False) -> str | None:
    """What the command line would say of these words; None when it would take them.

    A file that the words name and that is not here is no fault of theirs; with ``is_part`` neither is one that lacks.
    """
    try:
        with redirect_stdout(StringIO()):  # a command without words may show its help
            _parse(words)
    except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError):
        return None
    except (click.MissingParameter, click.BadOptionUsage) as error:
        return None if is_part else error.format_message()
    except click.ClickException as error:
        said = error.format_message()
        return None if any(missing in said for missing in _MISSING) else said
    return None


def _parse(words: list[str]) -> None:
    command: click.Command = main
    context = command.make_context("powertrain", list(words))
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        if not rest:
            return  # a group alone lists its commands
        name, child, left = command.resolve_command(context, rest)
        if child is None:
            raise click.UsageError(f"no command {name}", context)
        command, context = child, child.make_context(name, left, parent=context)
