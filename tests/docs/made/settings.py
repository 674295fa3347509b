"""docs/reference/settings.md, made from the fields of ``Settings``. Knows no source of values and no command."""

from __future__ import annotations

import dataclasses
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from api.model_settings import own_names
from api.server_settings import GROUPS, Settings
from tests.docs.made.cells import code, row

_HEAD = """# Settings of the server

Each is a flag of `powertrain serve`, an environment variable and a key of the file that `--config` names. Which of them
wins, and what the most important ones are for, is in [running the server](../operations.md#settings).
`powertrain serve --print-config` prints the values that a start would have, and where each comes from.

A list takes its items between commas or in several flags; in the file it is an array. A flag that is on or off has a
second form with `--no-`. *Own*: with several models each may have its own value
([several models](../several-models.md#settings)).
"""


def page() -> str:
    """The whole page, Markdown: one table for each group of settings."""
    hints = get_type_hints(Settings)
    lines = [_HEAD]
    for item in dataclasses.fields(Settings):
        if item.name in GROUPS:
            lines += [*([""] if len(lines) > 1 else []), f"## {GROUPS[item.name]}", ""]
            lines += [row("setting", "values", "default", "meaning", "also read from"), row(*["---"] * 5)]
        lines.append(_line(item, hints[item.name]))
    return "\n".join(lines) + "\n"


def _line(item: dataclasses.Field[Any], hint: object) -> str:
    flag = "MODEL" if item.name in {"model", "more_models"} else "--" + item.name.replace("_", "-")
    names = f"{code(item.name)}<br>{code(flag)}<br>{code('POWERTRAIN_' + item.name.upper())}"
    notes = [code(name) for name in item.metadata["nim"]]
    own = " *Own.*" if item.name in own_names() else ""
    return row(
        names, _kind(hint), _default(item.default), item.metadata["help"].replace("|", "\\|") + own, *[", ".join(notes)]
    )


def _kind(hint: Any) -> str:  # a type
    parts = [part for part in get_args(hint) if part is not NoneType] if NoneType in get_args(hint) else [hint]
    if get_origin(parts[0]) is Literal:
        return ", ".join(code(value) for value in get_args(parts[0]))
    if get_origin(parts[0]) is tuple:
        return "list of texts"
    return {bool: "on, off", int: "whole number", float: "number", str: "text"}[parts[0]]


def _default(value: object) -> str:
    if value is None or value in {(), ""}:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return code(value)
