"""How the answer to a conversation is held and read: by the choice of tools, the demand on its text, the model's forms.

Builds values only: nothing is compiled. Knows no tokens and no engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from runtime.constraint.spec import ConstraintSpec, Either, Part, Tagged
from runtime.constraint.thinking_budget import ThinkingBudget
from runtime.text.answer_delta import AnswerParser
from runtime.text.reasoning.forms import ReasoningForm, Section
from runtime.text.reasoning.parser import ContentParser, ReasoningParser
from runtime.text.tool_calls.tool import Tool

from api.answer_formats import AnswerFormats
from api.request.chat import ChatRequest
from api.request.constraint import ANY_OBJECT, asked_constraint
from api.request.messages import AssistantMessage, text_of
from api.request.tool_prompt import callable_tools
from api.request.tools import NamedTool
from api.response.choice_stream import AnswerForm


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """``demand`` is None where any text will do, ``budget`` where reasoning may take as long as it likes.

    ``opened`` holds instead of the demand's part once the answer has begun with a mark of reasoning, where it is given.
    """

    form: AnswerForm
    demand: ConstraintSpec | None
    budget: ThinkingBudget | None = None
    opened: Part | None = None


def answer_plan(fields: ChatRequest, formats: AnswerFormats, prompt: str) -> AnswerPlan:
    """The plan of a request whose fields are right. How its ``prompt`` ends tells where the answer begins."""
    plan = _without_reasoning(fields, formats)
    form = replace(plan.form, shows_reasoning=fields.include_reasoning is not False)
    plan = replace(plan, form=form)
    reasoning = formats.reasoning
    if reasoning is None:
        return plan
    section = reasoning.section(prompt, prefill=_prefill(fields))
    num_tokens = fields.thinking_token_budget
    if num_tokens is None or section is Section.CLOSED:
        return _after_reasoning(plan, reasoning, section)
    budget = ThinkingBudget(
        num_tokens, reasoning.begins, reasoning.end, reasoning.other_ends, is_open=section is Section.OPEN
    )
    demand = plan.demand or ConstraintSpec(_anything(fields, formats), "thinking_token_budget")
    return replace(_after_reasoning(replace(plan, demand=demand), reasoning, section), budget=budget)


def _anything(fields: ChatRequest, formats: AnswerFormats) -> Part:
    """Free text, with calls where there are tools: the marks of calls may be control tokens."""
    tools = callable_tools(fields.offered_tools) if fields.choice_of_tools == "auto" else []
    held = [replace(tool, parameters=ANY_OBJECT, strict=True) for tool in tools]
    return formats.tool_calls.offered(held, single=fields.parallel_tool_calls is False) or Tagged(())


def _without_reasoning(fields: ChatRequest, formats: AnswerFormats) -> AnswerPlan:
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
        new_parser=lambda: calls.parser(tools, single=single, enforced=True), calls_only=True, call_finish=call_finish
    )
    return AnswerPlan(form, ConstraintSpec(calls.demanded(tools, single=single), "tools"))


def _offered(tools: list[Tool], formats: AnswerFormats, demand: ConstraintSpec | None, *, single: bool) -> AnswerPlan:
    """Calls where the model begins one. Strict tools are held to their schemas; a demand holds text that is no call."""
    calls, leading = formats.tool_calls, demand is not None
    if demand is not None:
        held = [tool if tool.strict else replace(tool, parameters=ANY_OBJECT) for tool in tools]
        demand = replace(demand, part=Either((calls.demanded(held, single=single), demand.part)))
    elif (part := calls.offered(tools, single=single)) is not None:
        demand = ConstraintSpec(part, "tools")
    enforced = demand is not None
    form = AnswerForm(new_parser=lambda: calls.parser(tools, single=single, enforced=enforced, leading=leading))
    return AnswerPlan(form, demand)


def _after_reasoning(plan: AnswerPlan, reasoning: ReasoningForm, section: Section) -> AnswerPlan:
    """The same plan for what follows a reasoning section, if there is one."""
    following: Callable[[], AnswerParser] = plan.form.new_parser or ContentParser
    exact = plan.demand is not None

    def new_parser() -> AnswerParser:
        return ReasoningParser(reasoning, section, following(), exact=exact)

    plan = replace(plan, form=replace(plan.form, new_parser=new_parser, reads_reasoning=True))
    if plan.demand is None:
        return plan
    part = plan.demand.part
    demand = replace(plan.demand, part=reasoning.before(part, section))
    return replace(plan, demand=demand, opened=reasoning.opened(part, section))


def _prefill(fields: ChatRequest) -> str:
    last = fields.messages[-1]
    return text_of(last.content) if fields.continue_final_message and isinstance(last, AssistantMessage) else ""
