"""LangChain's ChatOpenAI."""

from __future__ import annotations

from typing import Any

from langchain_openai import ChatOpenAI
from openai import NotFoundError

from tests.clients.checks import CALL_TOKENS, CITY_QUESTION, Checks, ensure
from tests.clients.langchain_chat import check_chat, ensure_object
from tests.clients.weather import Weather

JSON_QUESTION = f"{CITY_QUESTION} Answer in JSON with the keys city and unit."

checks = Checks()


def model_named(name: str) -> Any:
    return ChatOpenAI(
        base_url=checks.api_url, api_key="not-used", model=name, max_tokens=CALL_TOKENS, temperature=0, max_retries=0
    )


def structured(method: Any) -> None:
    answer = model_named(checks.model).with_structured_output(Weather, method=method).invoke(CITY_QUESTION)
    ensure(isinstance(answer, Weather), answer)


check_chat(checks, model_named, NotFoundError)
checks.check("structured", "json_schema")(lambda: structured("json_schema"))
checks.check("structured", "function_calling")(lambda: structured("function_calling"))


@checks.check("structured", "json_mode")
def _() -> None:
    # Any object will do in this mode: its keys are the model's choice, so what it is parsed into is not looked at.
    parser = model_named(checks.model).with_structured_output(Weather, method="json_mode", include_raw=True)
    ensure_object(parser.invoke(JSON_QUESTION)["raw"])
