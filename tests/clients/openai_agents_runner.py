"""openai-agents over /v1/responses, where it starts, and over chat completions."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI, NotFoundError

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

MODELS: dict[str, Any] = {"responses": OpenAIResponsesModel, "chat": OpenAIChatCompletionsModel}
LOOP = asyncio.new_event_loop()

checks = Checks()
set_tracing_disabled(True)
asked: list[str] = []


@function_tool
def get_weather(weather: Weather) -> str:
    """The weather of a city."""
    asked.append(weather.city)
    return WEATHER


def agent(kind: str, model: str = checks.model, choice: str | None = None, **fields: Any) -> Any:
    client = AsyncOpenAI(base_url=checks.api_url, api_key="not-used", max_retries=0)
    settings = ModelSettings(  # an answer that the limit cuts is an exception in this library
        temperature=0, max_tokens=8 * CALL_TOKENS, tool_choice=choice, parallel_tool_calls=False if choice else None
    )
    kept = MODELS[kind](model=model, openai_client=client)
    return Agent(name="guide", instructions="You are brief.", model=kept, model_settings=settings, **fields)


def run(made: Any, question: str) -> Any:
    return LOOP.run_until_complete(Runner.run(made, question, max_turns=3))


def stream(kind: str) -> None:
    async def pieces() -> list[str]:
        events = Runner.run_streamed(agent(kind), QUESTION).stream_events()
        raw = [event.data async for event in events if event.type == "raw_response_event"]
        return [data.delta for data in raw if data.type == "response.output_text.delta"]

    ensure_pieces(LOOP.run_until_complete(pieces()))


def structured(kind: str) -> None:
    answer = run(agent(kind, output_type=Weather), CITY_QUESTION)
    ensure(isinstance(answer.final_output, Weather), answer)


def call(kind: str, choice: str) -> None:
    """The forced call runs; then the library lets the model choose, with the tool's result before it."""
    asked.clear()
    answer = run(agent(kind, choice=choice, tools=[get_weather]), CITY_QUESTION)
    ensure(len(asked) >= 1 and bool(answer.final_output), answer)


def check_kind(kind: str) -> None:
    checks.check("plain", kind)(lambda: ensure(bool(run(agent(kind), QUESTION).final_output), "no text"))
    checks.check("stream", kind)(lambda: stream(kind))
    checks.check("structured", kind)(lambda: structured(kind))
    for choice in ("required", "get_weather"):
        checks.check("tool", f"{kind}, {choice}")(partial(call, kind, choice))
    checks.check("result", kind)(lambda: call(kind, "required"))
    checks.refusal(NotFoundError, kind)(lambda: run(agent(kind, UNKNOWN_MODEL), QUESTION))


for each in MODELS:
    check_kind(each)
