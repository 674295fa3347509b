"""Tools as users of the ``openai`` client have them: its own descriptions of functions, parsing, streaming, rounds."""

from __future__ import annotations

from typing import Any

import openai
import pydantic

from tests.api.scripted_server import NAMES, RunningServer, user


class Weather(pydantic.BaseModel):
    """The weather of a city."""

    city: str
    days: int = 1


TOOL: Any = openai.pydantic_function_tool(Weather)
ARGUMENTS = '{"city":"Ulm","days":2}'
CALL = f'<tool_call>\n{{"name": "Weather", "arguments": {ARGUMENTS}}}\n</tool_call>'


def asked(program: str, **fields: Any) -> dict[str, Any]:
    return {"model": NAMES[0], "messages": [user(program)], "tools": [TOOL], "temperature": 0, **fields}


def test_parsed_arguments(tool_server: RunningServer) -> None:
    with tool_server.openai as client:
        for choice in ("auto", "required"):
            completion = client.chat.completions.parse(**asked(CALL, tool_choice=choice))
            message = completion.choices[0].message
            assert completion.choices[0].finish_reason == "tool_calls"
            assert message.tool_calls is not None
            assert message.tool_calls[0].function.parsed_arguments == Weather(city="Ulm", days=2)
        assert client.chat.completions.parse(**asked("None.")).choices[0].message.tool_calls is None


def test_streamed_calls(tool_server: RunningServer) -> None:
    with (
        tool_server.openai as client,
        client.chat.completions.stream(**asked(f"Well.\n{CALL}{CALL}", n=2)) as stream,
    ):
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert [(event.index, event.name, event.arguments) for event in done if event.index == 0] == [
        (0, "Weather", ARGUMENTS)
    ] * 2
    for choice in final.choices:
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Well.")
        calls = choice.message.tool_calls
        assert calls is not None
        assert [(call.function.name, call.function.arguments) for call in calls] == [("Weather", ARGUMENTS)] * 2
        assert len({call.id for call in calls}) == 2


def test_a_round(tool_server: RunningServer) -> None:
    with tool_server.openai as client:
        messages: list[Any] = [user(CALL)]
        first = client.chat.completions.create(**{**asked(CALL), "messages": messages})
        message = first.choices[0].message
        assert message.tool_calls is not None
        results = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls]
        messages += [message, *results, user("It rains.")]
        last = client.chat.completions.create(**{**asked(""), "messages": messages})
    assert (last.choices[0].message.content, last.choices[0].finish_reason) == ("It rains.", "stop")
