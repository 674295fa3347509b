"""Haystack's OpenAIChatGenerator."""

from __future__ import annotations

from typing import Any

from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret
from openai import NotFoundError

from tests.clients.checks import (
    CALL_TOKENS,
    CITY_QUESTION,
    QUESTION,
    UNKNOWN_MODEL,
    WEATHER,
    WEATHER_PARAMETERS,
    Checks,
    ensure,
    ensure_pieces,
    ensure_weather,
)
from tests.clients.weather import Weather

NAMED = {"type": "function", "function": {"name": "get_weather"}}

checks = Checks()


def get_weather(city: str, unit: str) -> str:
    """The weather of a city."""
    return f"{WEATHER} ({city}, {unit})"


tool = Tool(
    name="get_weather", description="The weather of a city", parameters=WEATHER_PARAMETERS, function=get_weather
)


def ask(messages: list[Any], model: str = checks.model, callback: Any = None, **fields: Any) -> Any:
    """The reply. ``fields`` go into the request."""
    tools = [tool] if "tool_choice" in fields else None
    generator = OpenAIChatGenerator(
        api_key=Secret.from_token("not-used"),
        model=model,
        api_base_url=checks.api_url,
        streaming_callback=callback,
        generation_kwargs={"max_tokens": CALL_TOKENS, "temperature": 0, **fields},
        max_retries=0,
        tools=tools,
    )
    return generator.run(messages)["replies"][0]


@checks.check("plain")
def _() -> None:
    ensure(bool(ask([ChatMessage.from_user(QUESTION)]).text), "no text")


@checks.check("stream")
def _() -> None:
    pieces: list[str] = []
    answer = ask([ChatMessage.from_user(QUESTION)], callback=lambda chunk: pieces.append(chunk.content))
    ensure_pieces([piece for piece in pieces if piece])
    ensure("".join(pieces) == answer.text, pieces)


@checks.check("structured")
def _() -> None:
    Weather.model_validate_json(ask([ChatMessage.from_user(CITY_QUESTION)], response_format=Weather).text)


def called(choice: Any) -> Any:
    answer = ask([ChatMessage.from_user(CITY_QUESTION)], tool_choice=choice, parallel_tool_calls=False)
    ensure(bool(answer.tool_calls), answer)
    for call in answer.tool_calls:
        ensure_weather(call.arguments)
    return answer


@checks.check("tool", "required")
def _() -> None:
    called("required")


@checks.check("tool", "named")
def _() -> None:
    called(NAMED)


@checks.check("result")
def _() -> None:
    turn = called("required")
    results = [ChatMessage.from_tool(tool.invoke(**call.arguments), origin=call) for call in turn.tool_calls]
    answer = ask([ChatMessage.from_user(CITY_QUESTION), turn, *results], tool_choice="none")
    ensure(bool(answer.text), answer)


@checks.refusal(NotFoundError)
def _() -> object:
    return ask([ChatMessage.from_user(QUESTION)], UNKNOWN_MODEL)
