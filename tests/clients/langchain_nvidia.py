"""LangChain's ChatNVIDIA. Its ``with_structured_output`` ignores the method and goes by the schema's kind."""

from __future__ import annotations

import enum
from typing import Any

from langchain_nvidia_ai_endpoints import ChatNVIDIA

from tests.clients.checks import CALL_TOKENS, CITY_QUESTION, WEATHER_PARAMETERS, Checks, ensure, ensure_weather
from tests.clients.langchain_chat import check_chat
from tests.clients.weather import Weather

checks = Checks()


class City(enum.Enum):
    PARIS = "Paris"
    LYON = "Lyon"


def model_named(name: str) -> Any:
    return ChatNVIDIA(
        base_url=checks.api_url, api_key="not-used", model=name, max_completion_tokens=CALL_TOKENS, temperature=0
    )


def structured(schema: Any) -> Any:
    return model_named(checks.model).with_structured_output(schema).invoke(CITY_QUESTION)


# The class raises bare exceptions; it has none of its own.
check_chat(checks, model_named, Exception)


@checks.check("structured", "pydantic")
def _() -> None:
    answer = structured(Weather)
    ensure(isinstance(answer, Weather), answer)


@checks.check("structured", "dict")
def _() -> None:
    ensure_weather(structured({"title": "weather", "description": "The weather", **WEATHER_PARAMETERS}))


@checks.check("structured", "enum")
def _() -> None:
    answer = structured(City)
    ensure(isinstance(answer, City), answer)
