"""LangChain's ChatOpenAI and ChatNVIDIA take the same checks: this is what both do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool

from tests.clients.checks import (
    CITY_QUESTION,
    QUESTION,
    UNKNOWN_MODEL,
    WEATHER,
    Checks,
    ensure,
    ensure_pieces,
    ensure_weather,
)


@tool
def get_weather(city: Literal["Paris", "Lyon", "Nice"], unit: Literal["C", "F"]) -> str:
    """The weather of a city."""
    return f"{WEATHER} ({city}, {unit})"


def check_chat(checks: Checks, model_named: Callable[[str], Any], refusal: type[Exception]) -> None:
    """Text, tools and the error. ``refusal`` is what the client raises for an unknown model."""
    model = model_named(checks.model)

    @checks.check("plain")
    def _() -> None:
        answer = model.invoke(QUESTION)
        ensure(bool(answer.content) and answer.usage_metadata["output_tokens"] > 0, answer)

    @checks.check("stream")
    def _() -> None:
        ensure_pieces([chunk.content for chunk in model.stream(QUESTION) if chunk.content])

    checks.check("tool", "bind_tools, required")(lambda: called(model, "required"))
    checks.check("tool", "bind_tools, named")(lambda: called(model, "get_weather"))
    checks.check("result")(lambda: second_turn(model))
    checks.refusal(refusal)(lambda: model_named(UNKNOWN_MODEL).invoke(QUESTION))


def called(model: Any, choice: str) -> Any:
    """The model's call of the tool."""
    bound = model.bind_tools([get_weather], tool_choice=choice, parallel_tool_calls=False)
    answer = bound.invoke(CITY_QUESTION)
    ensure(bool(answer.tool_calls), answer)
    for call in answer.tool_calls:
        ensure_weather(call["args"], closed=False)
    return answer


def second_turn(model: Any) -> None:
    """Send the tool's result."""
    turn = called(model, "required")
    results = [ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]) for call in turn.tool_calls]
    bound = model.bind_tools([get_weather], tool_choice="none")
    answer = bound.invoke([HumanMessage(CITY_QUESTION), turn, *results])
    ensure(bool(answer.content), answer)


def ensure_object(message: Any) -> None:
    """Whether a message is a JSON object, or the beginning of one that was cut."""
    text = message.content
    ensure(text.startswith("{"), message)
    if message.response_metadata["finish_reason"] == "stop":
        ensure(isinstance(json.loads(text), dict), message)
