"""A request for a response as the chat request that asks for the same, and faults by the names that were given."""

from __future__ import annotations

from typing import Any

import pytest

from api.errors import NotFoundError
from api.request.chat import ChatRequest
from api.request.messages import (
    AssistantMessage,
    DeveloperMessage,
    FunctionCall,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from api.request.responses_to_chat import AskedResponse, validate_response
from api.request.structured import JsonObjectFormat, JsonSchemaFormat, NamedSchema, TextFormat
from api.request.tools import FunctionDefinition, NamedFunction, NamedTool, Tool
from api.request.validation import RequestRules
from runtime.errors import RequestError

RULES = RequestRules(served_names=("m",))
CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "seen"}
TOOL = {"type": "function", "name": "look", "parameters": {"type": "object"}}


def asked(**fields: Any) -> AskedResponse:
    return validate_response({"input": "x", **fields}, RULES)


def chat(**fields: Any) -> ChatRequest:
    return asked(**fields).chat.fields


def refused(**fields: Any) -> tuple[str | None, str]:
    with pytest.raises(RequestError) as caught:
        asked(**fields)
    return caught.value.field, str(caught.value)


def call(call_id: str = "c1", name: str = "look", arguments: str = '{"at": 1}') -> ToolCall:
    return ToolCall(FunctionCall(name, arguments), call_id)


def test_a_text_is_a_users_message() -> None:
    assert chat(input="hi").messages == [UserMessage("hi")]
    assert chat(input="hi", instructions="be brief").messages == [SystemMessage("be brief"), UserMessage("hi")]


def test_messages_keep_roles_order_and_parts() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    found = chat(
        input=[
            {"role": "system", "content": "s"},
            {"role": "developer", "content": "d", "type": None},
            {"type": "message", "role": "user", "content": parts, "id": None, "more": 1},
            {"role": "assistant", "content": [{"type": "output_text", "text": "o", "annotations": []}], "status": "x"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        ]
    )
    assert found.messages == [
        SystemMessage("s"),
        DeveloperMessage("d"),
        UserMessage([TextPart("a"), TextPart("b")]),
        AssistantMessage([TextPart("o")]),
        AssistantMessage([RefusalPart("no")]),
    ]


def test_a_turn_of_the_assistant_is_one_message() -> None:
    reasoning = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    other = {**CALL, "call_id": "c2", "name": "wait", "arguments": ""}
    late = {**OUTPUT, "call_id": "c2", "output": [{"type": "input_text", "text": "done"}]}
    turn = [reasoning, {"role": "assistant", "content": "I look."}, CALL, other]
    found = asked(input=[{"role": "user", "content": "go"}, *turn, late, OUTPUT, {"role": "user", "content": "so?"}])
    assert found.chat.fields.messages == [
        UserMessage("go"),
        AssistantMessage([TextPart("I look.")], tool_calls=[call(), call("c2", "wait", "")], reasoning_content="hm"),
        ToolMessage([TextPart("done")], "c2", "wait"),
        ToolMessage("seen", "c1", "look"),
        UserMessage("so?"),
    ]
    assert [origin.message for origin in found.names.origins] == ["input.0", "input.1", "input.5", "input.6", "input.7"]
    assert found.names.origins[1].calls == ("input.3", "input.4")


def test_text_after_a_call_stays_in_its_turn() -> None:
    messages = chat(input=[CALL, {"role": "assistant", "content": "there"}, OUTPUT]).messages
    assert messages[0] == AssistantMessage([TextPart("there")], tool_calls=[call()])


def test_reasoning_begins_a_turn() -> None:
    summary = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "?"}
    messages = chat(input=[CALL, summary, {"role": "user", "content": "go"}]).messages
    assert messages[:2] == [AssistantMessage(None, tool_calls=[call()]), AssistantMessage("", reasoning_content="hm")]


def test_fields_have_their_chat_names() -> None:
    found = chat(
        max_output_tokens=5,
        top_logprobs=2,
        reasoning={"effort": "low", "summary": "auto"},
        temperature=0.5,
        top_k=3,
        stop="x",
        parallel_tool_calls=False,
        chat_template_kwargs={"a": 1},
        include_reasoning=True,
        thinking_token_budget=7,
    )
    assert (found.max_completion_tokens, found.logprobs, found.top_logprobs) == (5, True, 2)
    assert (found.reasoning_effort, found.temperature, found.top_k, found.stop) == ("low", 0.5, 3, "x")
    assert (found.parallel_tool_calls, found.chat_template_kwargs) == (False, {"a": 1})
    assert (found.include_reasoning, found.thinking_token_budget) == (True, 7)
    assert chat(include=["message.output_text.logprobs"]).logprobs is True
    assert chat(include=["reasoning.encrypted_content"], top_logprobs=0).logprobs is None


def test_tools_and_their_choice() -> None:
    tool = Tool(FunctionDefinition("look", parameters={"type": "object"}))
    found = chat(tools=[TOOL], tool_choice={"type": "function", "name": "look"})
    assert (found.tools, found.tool_choice) == ([tool], NamedTool(NamedFunction("look")))
    assert chat(tools=[TOOL], tool_choice="required").tool_choice == "required"
    assert chat(tools=[], tool_choice="auto").tool_choice is None  # what clients send without tools
    assert chat(tools=[{**TOOL, "strict": True}]).tools == [
        Tool(FunctionDefinition("look", parameters={"type": "object"}, strict=True))
    ]


def test_text_formats() -> None:
    schema = {"type": "object"}
    flat = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    assert chat(text={"format": flat}).response_format == JsonSchemaFormat(NamedSchema(schema, "n", None, True))
    assert chat(text={"format": {"type": "json_object"}}).response_format == JsonObjectFormat()
    assert chat(text={"format": {"type": "text"}}).response_format == TextFormat()
    assert chat(text={"verbosity": "low"}).response_format is None


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"input": None}, "input", "is required"),
        ({"input": []}, "input", "length >= 1"),
        ({"input": 5}, "input", "a string or a list, got 5"),
        ({"input": [5]}, "input.0", "an object, got 5"),
        ({"input": [{"role": "usre", "content": "x"}]}, "input.0.role", "'usre' is not allowed"),
        ({"input": [{"role": "user"}]}, "input.0.content", "is required"),
        ({"input": [{"type": "web_search_call"}]}, "input.0.type", "'web_search_call' is not allowed"),
        ({"input": [{"id": "msg_1", "type": "item_reference"}]}, "input.0", "keeps no items"),
        ({"input": [{"id": "msg_1"}]}, "input.0", "send the item itself"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}]},
            "input.0.content.0.type",
            "'input_image' is not allowed; allowed are input_text, output_text, refusal",
        ),
        ({"input": [OUTPUT]}, "input.0.call_id", "no function_call before it"),
        ({"input": [OUTPUT, CALL]}, "input.0.call_id", "no function_call before it"),
        ({"input": [{**CALL, "arguments": "[" * 200 + "]" * 200}]}, "input.0.arguments", "nested deeper than 128"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation in input"),
        ({"conversation": "conv_1"}, "conversation", "send the whole conversation in input"),
        ({"prompt": {"id": "p"}}, "prompt", "instructions and input"),
        ({"background": True}, "background", "not supported"),
        ({"truncation": "auto"}, "truncation", "send a shorter input"),
        ({"context_management": [{"type": "compaction"}]}, "context_management", "send a shorter input"),
        ({"moderation": {"model": "m"}}, "moderation", "does not moderate"),
        ({"messages": []}, "messages", "use input"),
        ({"max_tokens": 5}, "max_tokens", "use max_output_tokens"),
        ({"max_completion_tokens": 5}, "max_completion_tokens", "use max_output_tokens"),
        ({"response_format": {"type": "text"}}, "response_format", "use text.format"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "use reasoning.effort"),
        ({"logprobs": True}, "logprobs", "use include and top_logprobs"),
        ({"n": 2}, "n", "allowed are 1"),
        ({"max_output_tokens": 0}, "max_output_tokens", "an integer >= 1, got 0"),
        ({"temperature": 3}, "temperature", "a number <= 2"),
        ({"top_logprobs": 21}, "top_logprobs", "<= 20"),
        ({"include": ["x"]}, "include.0", "'x' is not allowed"),
        ({"reasoning": {"effort": "most"}}, "reasoning.effort", "'most' is not allowed; allowed are"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "'xml' is not allowed; allowed are text"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", "is required"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "'web_search' is not allowed; allowed are function"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools.0.type", "'custom' is not allowed"),
        ({"tools": [TOOL, TOOL]}, "tools.1.name", "tools.1.name: 'look' is the name of an earlier tool"),
        ({"tools": [{**TOOL, "parameters": {"type": "array"}}]}, "tools.0.parameters", "tools.0.parameters: arguments"),
        ({"tools": [TOOL], "tool_choice": "always"}, "tool_choice", "'always' is not allowed"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type", "'allowed_tools'"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "name": "no"}},
            "tool_choice.name",
            "tool_choice.name: 'no' is not",
        ),
        ({"tool_choice": "required"}, "tool_choice", "only allowed with tools"),
        (
            {"text": {"format": {"type": "json_object"}}, "tools": [TOOL], "tool_choice": "required"},
            "text.format",
            "text.format cannot be held where tool_choice forces a call",
        ),
        (
            {"text": {"format": {"type": "json_schema", "schema": {}}}, "guided_regex": "a"},
            "guided_regex",
            "guided_regex and text.format.schema each say",
        ),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options", "only allowed when stream is true"),
        ({"metadata": {"k": 1}}, "metadata", "a string"),
        ({"metadata": {str(place): "" for place in range(17)}}, "metadata", "length <= 16"),
        ({"metadata": {"k" * 65: ""}}, "metadata", "length <= 64"),
        ({"user": "u" * 513}, "user", "length <= 512"),
    ],
)  # fmt: skip
def test_faults_are_named_as_given(fields: dict[str, Any], field: str, words: str) -> None:
    found, message = refused(**fields)
    assert found == field
    assert words in message
    assert "response_format" not in message or field == "response_format"
    assert ".function" not in message


def test_the_model_comes_first() -> None:
    with pytest.raises(NotFoundError):
        validate_response({"input": [{"id": "x"}], "model": "other"}, RULES)


def test_habits_of_clients_are_no_fault() -> None:
    found = asked(
        store=True,
        background=False,
        truncation="disabled",
        previous_response_id=None,
        service_tier="auto",
        max_tool_calls=3,
        metadata={"k": "v"},
        user="u",
        safety_identifier="s",
        prompt_cache_key="p",
        include=["reasoning.encrypted_content", "web_search_call.results"],
        text={"verbosity": "low"},
        parallel_tool_calls=True,
        unknown=1,
    )
    assert found.chat.ignored == ("unknown",)
    assert (found.fields.metadata, found.fields.user) == ({"k": "v"}, "u")


def test_a_request_of_the_most_items_is_taken_and_one_more_is_not() -> None:
    item = {"role": "user", "content": ""}
    assert len(chat(input=[item] * 4096, instructions="i").messages) == 4097
    assert refused(input=[item] * 4097)[0] == "input"
    assert refused(tools=[{**TOOL, "name": f"t{place}"} for place in range(257)])[0] == "tools"
