"""What the description offers is accepted, what it leaves out is refused, and its examples do what they show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from api.controllers.openapi import OPERATIONS, Operation, openapi_document
from api.controllers.openapi_schemas import Interface
from api.request.chat import ChatRequest
from api.request.completion import CompletionRequest
from api.request.known_fields import REFUSED
from api.request.message_request import NOT_HERE as NOT_IN_MESSAGES
from api.request.message_request import MessageRequest
from api.request.responses import NOT_HERE as NOT_IN_RESPONSES
from api.request.responses import ResponsesRequest
from tests.api.scripted_server import NAMES, RunningServer, user

DOCUMENT = openapi_document(Interface(model=NAMES[0]))
SCHEMAS: dict[str, dict[str, Any]] = DOCUMENT["components"]["schemas"]
TOOL = {"type": "function", "function": {"name": "f"}}


def _holds(value: object, schema: dict[str, Any]) -> None:
    """Raise unless ``value`` fits a schema of the description."""
    whole = {**schema, "components": {"schemas": SCHEMAS}}
    jsonschema_rs.Draft202012Validator(whole).validate(value)


def _content(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][operation.path][operation.method]["responses"]["200"]["content"]
    return found


def _check_answer(operation: Operation, content_type: str, text: str) -> None:
    kind = content_type.partition(";")[0]
    media = _content(operation)[kind]
    if kind == "application/json":
        _holds(msgspec.json.decode(text), media["schema"])
    elif kind == "text/event-stream":
        data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        assert len(data) > 2
        members = getattr(operation.chunk, "__args__", (operation.chunk,))
        chunk = {"anyOf": [{"$ref": f"#/components/schemas/{member.__name__}"} for member in members]}
        for event in data:
            if event != "[DONE]":
                _holds(msgspec.json.decode(event), chunk)
        assert operation.last_event.startswith("[DONE]") == (data[-1] == "[DONE]")
    else:
        assert text.startswith("# HELP")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: f"{operation.method} {operation.path}")
def test_every_example_does_what_it_shows(operation: Operation, tool_server: RunningServer) -> None:
    described = DOCUMENT["paths"][operation.path][operation.method]
    shown = {
        name: (kind, example["value"])
        for kind, media in _content(operation).items()
        for name, example in media.get("examples", {}).items()
    }
    for kind, answer in shown.values():
        _check_answer(operation, kind, answer if isinstance(answer, str) else msgspec.json.encode(answer).decode())
    if operation.method == "get":
        path = operation.path.replace("{model_id}", str(described.get("parameters", [{}])[0].get("example")))
        answer = tool_server.get(path)
        assert answer.status_code == 200
        _check_answer(operation, answer.headers["content-type"], answer.text)
        assert shown
        return
    body = described["requestBody"]["content"]["application/json"]
    assert set(body["examples"]) == set(shown)
    for name, example in body["examples"].items():
        assert example["value"]["model"] == NAMES[0]
        _holds(example["value"], body["schema"])
        answer = tool_server.post(example["value"], operation.path)
        assert answer.status_code == 200, answer.text
        assert "x-ignored-fields" not in answer.headers
        assert answer.headers["content-type"].partition(";")[0] == shown[name][0]
        _check_answer(operation, answer.headers["content-type"], answer.text)


def test_each_way_of_asking_has_an_example() -> None:
    asked = {
        path: [
            example["value"]
            for example in methods["post"]["requestBody"]["content"]["application/json"]["examples"].values()
        ]
        for path, methods in DOCUMENT["paths"].items()
        if "post" in methods
    }
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
        assert {bool(body.get("stream")) for body in asked[path]} == {True, False}
    fields = {path: {field for body in bodies for field in body} for path, bodies in asked.items()}
    assert {"response_format", "tools", "logprobs", "seed"} <= fields["/v1/chat/completions"]
    assert {"echo", "logprobs", "guided_regex"} <= fields["/v1/completions"]
    assert {"text", "tools"} <= fields["/v1/responses"]


# Chat requests are rendered and messages counted: both are checked as if they were to be answered.
ASKED: dict[str, tuple[str, type[msgspec.Struct], dict[str, Any]]] = {
    "chat": ("/v1/chat/completions/render", ChatRequest, {"messages": [user("x")]}),
    "completion": ("/v1/completions", CompletionRequest, {"prompt": "x", "max_tokens": 1}),
    "response": ("/v1/responses", ResponsesRequest, {"input": "x", "max_output_tokens": 1}),
    "message": ("/v1/messages/count_tokens", MessageRequest, {"messages": [user("x")], "max_tokens": 1}),
}
TOGETHER: dict[str, dict[str, Any]] = {
    "max_tokens": {"echo": True},
    "stream_options": {"stream": True},
    "top_logprobs": {"logprobs": True},
    "tool_choice": {"tools": [TOOL]},
    "continue_final_message": {"messages": [user("x"), {"role": "assistant", "content": "y"}]},
}
"""Fields that go with another one; the operation's description says so, or the field's own."""
VALUES: dict[str, list[Any]] = {
    "model": [NAMES[0], NAMES[1], ""],
    "guided_json": [{}, True, "{}"],
    "guided_grammar": ['start: "a"'],
    "guided_whitespace_pattern": ["", "\\s*"],
    "guided_decoding_backend": ["xgrammar", "guidance:no-fallback"],
    "structured_outputs": [{"regex": "a"}, {"json": {}}, {"choice": ["a"]}, {"json_object": True}],
    "StructuralTag": [
        {"type": "structural_tag", "structures": [{"begin": "<a>", "schema": {}, "end": "</a>"}], "triggers": ["<"]}
    ],
    "NamedTool": [TOOL],
    "FunctionChoice": [{"type": "function", "name": "f"}],
    "OneTool": [{"type": "tool", "name": "f"}],
}
"""Values where the schema alone does not say enough: names that mean something, and one of several fields."""


def _samples(schema: dict[str, Any]) -> Iterator[Any]:
    """Values at the edges of what a schema allows, null aside."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield from VALUES[name] if name in VALUES else _samples(SCHEMAS[name])
    elif "const" in schema or "enum" in schema:
        yield from [value for value in schema.get("enum", [schema.get("const")]) if value is not None]
    elif "anyOf" in schema:
        for part in schema["anyOf"]:
            yield from _samples({**{key: value for key, value in schema.items() if key != "anyOf"}, **part})
    else:
        kinds = schema.get("type", "object")
        for kind in [kinds] if isinstance(kinds, str) else kinds:
            yield from _plain_samples(kind, schema)


def _plain_samples(kind: str, schema: dict[str, Any]) -> Iterator[Any]:
    if kind == "boolean":
        yield from (True, False)
    elif kind in {"integer", "number"}:
        low = schema.get("minimum", schema.get("exclusiveMinimum", -3) + 1e-9 if kind == "number" else -3)
        yield from {low, schema.get("maximum", low + 1)} - {schema.get("not", {}).get("const")}
    elif kind == "string" and "pattern" in schema:
        yield from (text for text in ("", " ", "a") if re.search(schema["pattern"], text))
    elif kind == "string":
        yield from ("a" * min(schema.get("maxLength", 1), 512), "a" * schema.get("minLength", 0))
    elif kind == "array":
        items = list(_samples(schema["items"])) if "items" in schema else []
        is_plain = isinstance(schema.get("items", {}).get("type"), str)
        yield from ([item] for item in items[: None if is_plain else 1])
        if not schema.get("minItems"):
            yield []
    elif kind == "object":
        needed = {name: next(_samples(schema["properties"][name])) for name in schema.get("required", ())}
        yield needed | ({"1": 1.5} if schema.get("additionalProperties", {}).get("type") == "number" else {})


@pytest.mark.parametrize("kind", list(ASKED))
def test_what_is_described_is_accepted(kind: str, tool_server: RunningServer) -> None:
    path, struct, least = ASKED[kind]
    text = " ".join(methods["post"]["description"] for methods in DOCUMENT["paths"].values() if "post" in methods)
    properties = SCHEMAS[struct.__name__]["properties"]
    num_sent = 0
    for field, schema in properties.items():
        with_it = {name: value for name, value in TOGETHER.get(field, {}).items() if name in properties}
        if field == "tool_choice" and kind != "chat":
            with_it = {"tools": [{**TOOL["function"], "type": "function"} if kind == "response" else _CLIENT_TOOL]}  # type: ignore[dict-item]
        if field in TOGETHER:
            assert f"`{field}`" in text or "description" in schema
        for value in VALUES.get(field, ()):
            _holds(value, schema)
        for value in VALUES.get(field) or list(_samples(schema)):
            answer = tool_server.post(least | with_it | {field: value}, path)
            assert answer.status_code == 200, (field, value, answer.text)
            assert "x-ignored-fields" not in answer.headers, field
            num_sent += 1
    assert num_sent > len(properties)


def test_each_spelling_of_a_demand_is_accepted(tool_server: RunningServer) -> None:
    known = {"json": "guided_json", "grammar": "guided_grammar", "structural_tag": "StructuralTag"}
    for name in ("json", "regex", "choice", "grammar", "json_object", "structural_tag"):
        schema = SCHEMAS["StructuredOutputs"]["properties"][name]
        for value in VALUES.get(known.get(name, "")) or list(_samples(schema)):
            asked = {"structured_outputs": {name: value}}
            answer = tool_server.post({"messages": [user("x")]} | asked, "/v1/chat/completions/render")
            assert answer.status_code == 200 or value is False, (asked, answer.text)


_CLIENT_TOOL = {"name": "f", "input_schema": {}}

LEFT_OUT: dict[str, dict[str, Any]] = {
    "use_beam_search": {"use_beam_search": True},
    "length_penalty": {"length_penalty": 1.5},
    "best_of": {"best_of": 2},
    "priority": {"priority": 1},
    "chat_template": {"chat_template": "{{ messages }}"},
    "n": {"n": 2},
    "max_tokens": {"max_tokens": 1},
    "response_format": {"response_format": {"type": "text"}},
    "return_token_ids": {"return_token_ids": True},
    "stop": {"stop": "x"},
    "truncation": {"truncation": "auto"},
    "background": {"background": True},
}
"""Fields that some kind of request knows only to refuse them, and what is refused."""
OF_ALL = {"use_beam_search", "length_penalty", "best_of", "priority"}


@pytest.mark.parametrize(
    ("kind", "left_out", "elsewhere"),
    [
        ("chat", OF_ALL | {"chat_template"}, REFUSED),
        ("completion", OF_ALL, REFUSED),
        ("response", OF_ALL | {"n", "max_tokens", "response_format", "return_token_ids", "truncation", "background"},
         NOT_IN_RESPONSES),
        ("message", OF_ALL | {"n", "stop", "response_format", "return_token_ids"}, NOT_IN_MESSAGES),
    ],
)  # fmt: skip
def test_what_is_only_refused_is_left_out(
    kind: str, left_out: set[str], elsewhere: dict[str, str], tool_server: RunningServer
) -> None:
    path, struct, least = ASKED[kind]
    shown = set(SCHEMAS[struct.__name__]["properties"])
    assert set(struct.__struct_fields__) - shown == left_out
    assert not shown & (set(elsewhere) - set(struct.__struct_fields__))
    for field in left_out:
        answer = tool_server.post(least | LEFT_OUT[field], path)
        assert (answer.status_code, answer.json()["error"].get("param", field)) == (400, field)


def test_a_field_that_the_operator_allows_is_described() -> None:
    schemas = openapi_document(Interface(trusts_chat_templates=True))["components"]["schemas"]
    assert "chat_template" in schemas["ChatRequest"]["properties"]
    assert "x-only-refused" not in msgspec.json.encode(schemas).decode()
