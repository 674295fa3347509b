"""How the answer to a conversation is held and read: by the choice of tools, the demand on its text, the model's forms.

Builds values only: nothing is compiled. Knows no prompt and no engine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from runtime.constraint.spec import ConstraintSpec, Either
from runtime.text.tool_calls.tool import Tool

from api.answer_formats import AnswerFormats
from api.request.chat import ChatRequest
from api.request.constraint import ANY_OBJECT, asked_constraint
from api.request.tool_prompt import callable_tools
from api.request.tools import NamedTool
from api.response.choice_stream import AnswerForm


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """``demand`` is None where any text will do."""

    form: AnswerForm
    demand: ConstraintSpec | None


def answer_plan(fields: ChatRequest, formats: AnswerFormats) -> AnswerPlan:
    """The plan of a request whose fields are right."""
    demand = asked_constraint(fields)
    choice, tools = fields.choice_of_tools, callable_tools(fields.offered_tools)
    single = fields.parallel_tool_calls is False
    if choice == "none" or not tools:
        return AnswerPlan(AnswerForm(), demand)
    if choice == "auto":
        return _offered(tools, formats, demand, single=single)
    if isinstance(choice, NamedTool):
        named = [tool for tool in tools if tool.name == choice.function.name]
        return _demanded(named, formats, single=True, call_finish="stop")
    return _demanded(tools, formats, single=single, call_finish="tool_calls")


def _demanded(tools: list[Tool], formats: AnswerFormats, *, single: bool, call_finish: str) -> AnswerPlan:
    calls = formats.tool_calls
    form = AnswerForm(
        new_parser=lambda: calls.parser(tools, single=single, enforced=True),
        calls_only=True,
        call_finish=call_finish,
        marks=calls.control_texts,
    )
    return AnswerPlan(form, ConstraintSpec(calls.demanded(tools, single=single), "tools"))


def _offered(tools: list[Tool], formats: AnswerFormats, demand: ConstraintSpec | None, *, single: bool) -> AnswerPlan:
    """A call where the model begins one: strict tools are held to their schemas, and text that is no call to a demand."""
    calls = formats.tool_calls
    if demand is not None:
        held = [tool if tool.strict else replace(tool, parameters=ANY_OBJECT) for tool in tools]
        demand = replace(demand, part=Either((calls.demanded(held, single=single), demand.part)))
    elif (part := calls.offered(tools, single=single)) is not None:
        demand = ConstraintSpec(part, "tools")
    enforced = demand is not None
    form = AnswerForm(
        new_parser=lambda: calls.parser(tools, single=single, enforced=enforced), marks=calls.control_texts
    )
    return AnswerPlan(form, demand)
