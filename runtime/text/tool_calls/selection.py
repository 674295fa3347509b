"""Which format a model's calls are in: by name, or by the marks that its chat template shows.

Knows every format's name and marks, and nothing of their insides.
"""

from __future__ import annotations

import difflib

from runtime.errors import UnknownParser
from runtime.text.tool_calls.format import ToolCallFormat
from runtime.text.tool_calls.generic import GENERIC
from runtime.text.tool_calls.hermes import HERMES

FORMATS = {format_.name: format_ for format_ in (HERMES, GENERIC)}
"""The formats by their names here, most of which are vLLM's."""
_ALIASES: dict[str, str] = {}
_MARKS = (("<tool_call>", "hermes"),)
"""Text in a template's source -> the format it shows; the first that is found counts."""


def by_name(name: str) -> ToolCallFormat:
    """The format of this name, vLLM's names among them. Raises UnknownParser, with all names."""
    if (known := FORMATS.get(_ALIASES.get(name, name))) is not None:
        return known
    names = sorted([*FORMATS, *_ALIASES])
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UnknownParser(f"there is no tool-call parser {name[:64]!r}; there are: {', '.join(names)}.{hint}")


def detect(template_source: str) -> ToolCallFormat:
    """The format that a chat template writes calls in; the generic one where it has no marks that are known."""
    found = next((name for mark, name in _MARKS if mark in template_source), "generic")
    return FORMATS[found]
