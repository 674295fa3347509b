"""How one model's answers are read: the form of its tool calls and of its reasoning, by the operator's word or by the
marks in its chat template. Knows no request.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from runtime.text.chat_template import ChatTemplate
from runtime.text.reasoning.forms import ReasoningForm, detect_reasoning, reasoning_by_name
from runtime.text.tokenizer import Tokenizer
from runtime.text.tool_calls import selection
from runtime.text.tool_calls.format import ToolCallFormat
from runtime.text.tool_calls.generic import GENERIC

from api.server_settings import Settings

OFF = "none"
"""What an operator says to switch a parser off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFormats:
    """How answers are read.

    ``parses_tools`` is False where the operator switched the parser off; forced calls have a form all the same.
    ``reasoning`` is None where answers have no reasoning section. ``leaves_out_unused_tools``: prompts do not tell of
    tools that the request rules out. ``control_marks`` are those marks of both forms that the tokenizer flags as
    special, and their ids: parsers need to see them, and nobody else may.
    """

    tool_calls: ToolCallFormat = GENERIC
    parses_tools: bool = True
    reasoning: ReasoningForm | None = None
    leaves_out_unused_tools: bool = False
    control_marks: Mapping[str, int] = field(default_factory=dict)

    def new_call_id(self) -> str:
        """A fresh id of a call. Mistral's templates take ids of nine letters and digits only."""
        return uuid.uuid4().hex[:9] if self.tool_calls.name.startswith("mistral") else f"call_{uuid.uuid4().hex}"


def answer_formats(settings: Settings, template: ChatTemplate, tokenizer: Tokenizer) -> AnswerFormats:
    """The forms that settings name, else those that the template shows. Raises UnknownParser for an unknown name.

    A template that is not given tools has them told in words, which ask for the generic form.
    """
    named = settings.tool_call_parser
    is_off = named == OFF
    if named is not None and not is_off:
        calls = selection.by_name(named)
    else:
        calls = selection.detect(template.source) if template.knows_tools else GENERIC
    if settings.reasoning_parser is None:
        reasoning = detect_reasoning(template.source)
    else:
        reasoning = reasoning_by_name(settings.reasoning_parser)
    marks = (*calls.control_texts, *(reasoning.control_texts if reasoning is not None else ()))
    ids = {mark: token_id for mark in marks if (token_id := tokenizer.token_id(mark)) in tokenizer.special_ids}
    return AnswerFormats(
        tool_calls=calls,
        parses_tools=not is_off,
        reasoning=reasoning,
        leaves_out_unused_tools=settings.exclude_tools_when_tool_choice_none,
        control_marks=ids,
    )
