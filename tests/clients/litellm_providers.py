"""LiteLLM, under each of the three providers that fit this server."""

from __future__ import annotations

from typing import Any

import litellm

from tests.clients.checks import (
    CALL_TOKENS,
    CITY_QUESTION,
    MAX_TOKENS,
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

PROVIDERS = ("openai", "nvidia_nim", "hosted_vllm")

checks = Checks()
litellm.suppress_debug_info = True
tool = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER_PARAMETERS}}
named = {"type": "function", "function": {"name": "get_weather"}}
question = [{"role": "user", "content": QUESTION}]
asked = [{"role": "user", "content": CITY_QUESTION}]


def ask(provider: str, messages: list[Any], model: str = checks.model, **fields: Any) -> Any:
    return litellm.completion(
        f"{provider}/{model}",
        messages=messages,
        api_base=checks.api_url,
        api_key="not-used",
        num_retries=0,
        temperature=0,
        **fields,
    )


def plain(provider: str) -> None:
    answer = ask(provider, question, max_tokens=MAX_TOKENS)
    ensure(bool(answer.choices[0].message.content), answer)


def stream(provider: str) -> None:
    chunks = ask(provider, question, max_tokens=MAX_TOKENS, stream=True)
    ensure_pieces([chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content])


def structured(provider: str) -> None:
    answer = ask(provider, asked, max_tokens=CALL_TOKENS, response_format=Weather)
    Weather.model_validate_json(answer.choices[0].message.content)


def called(provider: str, choice: Any) -> Any:
    answer = ask(provider, asked, max_tokens=CALL_TOKENS, tools=[tool], tool_choice=choice, parallel_tool_calls=False)
    message = answer.choices[0].message
    ensure(bool(message.tool_calls), answer)
    for call in message.tool_calls:
        ensure_weather(call.function.arguments, closed=provider != "hosted_vllm")  # it sends no additionalProperties
    return message


def second_turn(provider: str) -> None:
    message = called(provider, "required")
    results = [{"role": "tool", "tool_call_id": call.id, "content": WEATHER} for call in message.tool_calls]
    answer = ask(provider, [*asked, message, *results], max_tokens=MAX_TOKENS, tools=[tool], tool_choice="none")
    ensure(bool(answer.choices[0].message.content), answer)


def check_provider(provider: str) -> None:
    checks.check("plain", provider)(lambda: plain(provider))
    checks.check("stream", provider)(lambda: stream(provider))
    checks.check("structured", provider)(lambda: structured(provider))
    checks.check("tool", f"{provider}, required")(lambda: called(provider, "required"))
    checks.check("tool", f"{provider}, named")(lambda: called(provider, named))
    checks.check("result", provider)(lambda: second_turn(provider))
    checks.refusal(litellm.NotFoundError, provider)(
        lambda: ask(provider, question, UNKNOWN_MODEL, max_tokens=MAX_TOKENS)
    )


for each in PROVIDERS:
    check_provider(each)
