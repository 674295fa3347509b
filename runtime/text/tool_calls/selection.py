"""Which format a model's calls are in: by name, or by the marks that its chat template shows.

Knows every format's name and marks, and nothing of their insides.
"""

from __future__ import annotations

import difflib

from runtime.errors import UnknownParser
from runtime.text.tool_calls.deepseek import DEEPSEEK_V3, DEEPSEEK_V31
from runtime.text.tool_calls.format import ToolCallFormat
from runtime.text.tool_calls.gemma import FUNCTION_GEMMA, GEMMA4
from runtime.text.tool_calls.generic import GENERIC
from runtime.text.tool_calls.granite import GRANITE
from runtime.text.tool_calls.hermes import HERMES
from runtime.text.tool_calls.llama3_json import LLAMA3_JSON
from runtime.text.tool_calls.mistral import MISTRAL, MISTRAL_JSON
from runtime.text.tool_calls.phi4 import PHI4, PHI4_FUNCTOOLS
from runtime.text.tool_calls.pythonic import LFM2, LLAMA4_PYTHONIC, PYTHONIC, TOOL_CODE
from runtime.text.tool_calls.qwen3_coder import QWEN3_CODER

FORMATS = {
    format_.name: format_
    for format_ in (
        HERMES, QWEN3_CODER, LLAMA3_JSON, PYTHONIC, LLAMA4_PYTHONIC, LFM2, TOOL_CODE, MISTRAL, MISTRAL_JSON, GRANITE,
        PHI4, PHI4_FUNCTOOLS, FUNCTION_GEMMA, GEMMA4, DEEPSEEK_V3, DEEPSEEK_V31, GENERIC,
    )
}  # fmt: skip
"""The formats by their names here, most of which are vLLM's."""
_ALIASES = {
    "granite4": "hermes",
    "llama4_json": "llama3_json",
    "mimo": "qwen3_coder",
    "nemotron_json": "hermes",
    "qwen25": "hermes",
    "qwen3_xml": "qwen3_coder",
    "gemma3": "pythonic",
}
"""Other names, most of them vLLM's -> the format."""
_MARKS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("[TOOL_CALLS]", "[ARGS]"), "mistral"),
    (("[TOOL_CALLS]",), "mistral_json"),
    (("<function=", "<tool_call>"), "qwen3_coder"),
    (("<function=",), "generic"),
    (("<start_function_call>",), "functiongemma"),
    (("<|tool_call>", '<|"|>'), "gemma4"),
    (("<|tool_call_start|>",), "lfm2"),
    (("<|python_start|>",), "llama4_pythonic"),
    (("```tool_code",), "tool_code"),
    (("[func_name1(",), "pythonic"),
    (("functools[",), "phi4_mini_json"),
    (("<|/tool_call|>",), "phi4"),
    (("<|tool|>", "<|/tool|>"), "phi4"),
    (("<|tool_call|>",), "granite"),
    (("<｜tool▁calls▁begin｜>", "```json"), "deepseek_v3"),
    (("<｜tool▁calls▁begin｜>",), "deepseek_v31"),
    (("<arg_key>",), "generic"),  # tags as those of hermes, around another form
    (("<tool_call>", '"arguments"'), "hermes"),
    (("<|python_tag|>",), "llama3_json"),
    (('"parameters": dictionary',), "llama3_json"),
)
"""Texts that a template's source holds, all of them -> the format it shows; the first that fits counts."""


def by_name(name: str, template_source: str = "") -> ToolCallFormat:
    """The format of this name, vLLM's names among them. Raises UnknownParser, with all names.

    A family whose models differ in form has one name, "mistral": the template shows which form is meant.
    """
    shown = detect(template_source)
    if name == MISTRAL.name and shown is MISTRAL_JSON:
        return shown
    if (known := FORMATS.get(_ALIASES.get(name, name))) is not None:
        return known
    names = sorted([*FORMATS, *_ALIASES])
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UnknownParser(f"there is no tool-call parser {name[:64]!r}; there are: {', '.join(names)}.{hint}")


def detect(template_source: str) -> ToolCallFormat:
    """The format that a chat template writes calls in; the generic one where it has no marks that are known."""
    found = next((name for marks, name in _MARKS if all(mark in template_source for mark in marks)), "generic")
    return FORMATS[found]
