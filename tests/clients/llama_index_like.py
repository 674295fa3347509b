"""LlamaIndex's OpenAILike."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from openai import NotFoundError

from tests.clients.checks import (
    CALL_TOKENS,
    CITY_QUESTION,
    QUESTION,
    UNKNOWN_MODEL,
    WEATHER,
    Checks,
    ensure,
    ensure_pieces,
    ensure_weather,
)
from tests.clients.weather import Weather

checks = Checks()


def model_named(name: str) -> Any:
    return OpenAILike(
        model=name,
        api_base=checks.api_url,
        api_key="not-used",
        is_chat_model=True,
        is_function_calling_model=True,
        should_use_structured_outputs=True,
        max_tokens=CALL_TOKENS,
        temperature=0,
        max_retries=0,
    )


def get_weather(city: str, unit: str) -> str:
    """The weather of a city."""
    return f"{WEATHER} ({city}, {unit})"


model = model_named(checks.model)
tool = FunctionTool.from_defaults(get_weather, fn_schema=Weather)


@checks.check("plain")
def _() -> None:
    answer = model.chat([ChatMessage(QUESTION)])
    ensure(bool(answer.message.content), answer)


@checks.check("stream")
def _() -> None:
    ensure_pieces([piece.delta for piece in model.stream_chat([ChatMessage(QUESTION)]) if piece.delta])


@checks.check("structured", "as_structured_llm")
def _() -> None:
    answer = model.as_structured_llm(Weather).chat([ChatMessage(CITY_QUESTION)])
    ensure(isinstance(answer.raw, Weather), answer)


def called(**choice: Any) -> Any:
    answer = model.chat_with_tools([tool], user_msg=CITY_QUESTION, **choice)
    calls = model.get_tool_calls_from_response(answer)
    for call in calls:
        ensure_weather(call.tool_kwargs)
    return answer.message, calls


@checks.check("tool", "required")
def _() -> None:
    called(tool_required=True)


@checks.check("tool", "named")
def _() -> None:
    called(tool_choice="get_weather")


@checks.check("result")
def _() -> None:
    message, calls = called(tool_required=True)
    results = [
        ChatMessage(WEATHER, role=MessageRole.TOOL, additional_kwargs={"tool_call_id": call.tool_id}) for call in calls
    ]
    answer = model.chat([ChatMessage(CITY_QUESTION), message, *results])
    ensure(bool(answer.message.content), answer)


@checks.refusal(NotFoundError)
def _() -> object:
    return model_named(UNKNOWN_MODEL).chat([ChatMessage(QUESTION)])
