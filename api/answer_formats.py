"""How one model's answers are read: the form of its tool calls and of its reasoning, by the operator's word or by the
marks in its chat template. Knows no request.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.text.tool_calls import selection
from runtime.text.tool_calls.format import ToolCallFormat
from runtime.text.tool_calls.generic import GENERIC

from api.server_settings import Settings

OFF = "none"
"""What an operator says to switch a parser off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFormats:
    """``parses_tools`` is False where the operator switched the parser off; calls that are forced have a form all the
    same. ``leaves_out_unused_tools``: prompts do not tell of tools that the request rules out.
    """

    tool_calls: ToolCallFormat = GENERIC
    parses_tools: bool = True
    leaves_out_unused_tools: bool = False


def answer_formats(settings: Settings, template_source: str) -> AnswerFormats:
    """The forms that settings name, else those that the template shows. Raises UnknownParser for an unknown name."""
    named = settings.tool_call_parser
    is_off = named == OFF
    found = selection.detect(template_source) if named is None or is_off else selection.by_name(named)
    return AnswerFormats(
        tool_calls=found,
        parses_tools=not is_off,
        leaves_out_unused_tools=settings.exclude_tools_when_tool_choice_none,
    )
