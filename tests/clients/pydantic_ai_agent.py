"""pydantic-ai's agents over chat completions."""

from __future__ import annotations

from typing import Any

from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.checks import (
    CALL_TOKENS,
    CITY_QUESTION,
    QUESTION,
    UNKNOWN_MODEL,
    WEATHER,
    Checks,
    ensure,
    ensure_pieces,
)
from tests.clients.weather import Weather

checks = Checks()
settings: Any = {"max_tokens": CALL_TOKENS, "temperature": 0, "parallel_tool_calls": False}


def agent(given: Any = settings, model: str = checks.model, **fields: Any) -> Any:
    provider = OpenAIProvider(base_url=checks.api_url, api_key="not-used")
    return Agent(OpenAIChatModel(model, provider=provider), model_settings=given, retries=0, **fields)


@checks.check("plain")
def _() -> None:
    answer = agent().run_sync(QUESTION)
    ensure(bool(answer.output), answer)


@checks.check("stream")
def _() -> None:
    ensure_pieces(list(agent().run_stream_sync(QUESTION).stream_text(delta=True, debounce_by=None)))


@checks.check("structured", "NativeOutput")
def _() -> None:
    answer = agent(output_type=NativeOutput(Weather)).run_sync(CITY_QUESTION)
    ensure(isinstance(answer.output, Weather), answer)


@checks.check("structured", "ToolOutput")
def _() -> None:
    answer = agent(output_type=ToolOutput(Weather)).run_sync(CITY_QUESTION)
    ensure(isinstance(answer.output, Weather), answer)


def run_tool(choice: Any) -> None:
    """Force a call at the first turn and words at the second."""
    asked: list[Weather] = []
    caller = agent(lambda context: {**settings, "tool_choice": choice if context.run_step == 1 else "none"})

    @caller.tool_plain
    def get_weather(weather: Weather) -> str:
        """The weather of a city."""
        asked.append(weather)
        return WEATHER

    answer = caller.run_sync(CITY_QUESTION)
    ensure(len(asked) == 1 and bool(answer.output), answer)


@checks.check("tool", "required")
@checks.check("result")
def _() -> None:
    run_tool("required")


@checks.check("tool", "named")
def _() -> None:
    run_tool(["get_weather"])


@checks.refusal(ModelHTTPError)
def _() -> object:
    return agent(model=UNKNOWN_MODEL).run_sync(QUESTION)
