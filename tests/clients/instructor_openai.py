"""Instructor over OpenAI's library, in its three modes for such servers. It only does structured answers."""

from __future__ import annotations

from typing import Any

import instructor
from openai import OpenAI

from tests.clients.checks import CALL_TOKENS, CITY_QUESTION, UNKNOWN_MODEL, Checks, ensure, ensure_pieces
from tests.clients.weather import Weather

checks = Checks()
asked: list[Any] = [{"role": "user", "content": CITY_QUESTION}]


def client(mode: Any) -> Any:
    return instructor.from_openai(OpenAI(base_url=checks.api_url, api_key="not-used", max_retries=0), mode=mode)


def ask(mode: Any, model: str = checks.model) -> Any:
    return client(mode).create(
        model=model, messages=asked, response_model=Weather, max_retries=0, max_tokens=CALL_TOKENS, temperature=0
    )


@checks.check("structured", "JSON_SCHEMA")
def _() -> None:
    ensure(isinstance(ask(instructor.Mode.JSON_SCHEMA), Weather), "not the schema's")


@checks.check("tool", "TOOLS")
def _() -> None:
    ensure(isinstance(ask(instructor.Mode.TOOLS), Weather), "not the schema's")


@checks.check("stream", "create_partial")
def _() -> None:
    partial = client(instructor.Mode.JSON_SCHEMA).create_partial(
        model=checks.model, messages=asked, response_model=Weather, max_retries=0, max_tokens=CALL_TOKENS, temperature=0
    )
    ensure_pieces([str(piece) for piece in partial])


@checks.refusal(Exception)
def _() -> object:
    return ask(instructor.Mode.JSON_SCHEMA, UNKNOWN_MODEL)
