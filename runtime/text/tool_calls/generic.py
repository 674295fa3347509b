"""For models whose template knows no tools: the prompt that tells them of tools, and the calls that such models write.

They are asked for the tags of ``hermes``. Small models often write a fenced JSON block instead, or bare JSON: such a
block that holds nothing but calls, each with its arguments and of a tool that there is, counts as calls. Where a
constraint holds, only the tags do, since only they are enforced.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from runtime.text.cursor import Cursor, Steps
from runtime.text.tool_calls import hermes
from runtime.text.tool_calls.calls import Calls
from runtime.text.tool_calls.format import ToolCallFormat
from runtime.text.tool_calls.json_call import json_call, json_calls
from runtime.text.tool_calls.parser import Opening
from runtime.text.tool_calls.tool import Tool

FENCE = "```"
_LANGUAGES = ("json", "tool_call", "tool_code")
_HEAD = """# Tools

You may call one or more of these functions. Each line describes one, its parameters as a JSON Schema:
<tools>
"""
_TAIL = """
</tools>

To call a function, answer with its name and its arguments as a JSON object between these tags, once for each call:
<tool_call>
{"name": "function name", "arguments": {"parameter name": "value"}}
</tool_call>
If no function helps, answer in plain words."""


def tools_prompt(tools: Sequence[Tool], descriptions: Sequence[str]) -> str:
    """The text for the system message; ``descriptions`` are the tools', empty where there is none."""
    lines = []
    for tool, description in zip(tools, descriptions, strict=True):
        about = {"name": tool.name, **({"description": description} if description else {})}
        head = json.dumps(about, ensure_ascii=False)[:-1]
        lines.append(f'{head}, "parameters": {tool.parameters}}}')
    return _HEAD + "\n".join(lines) + _TAIL


def call_text(name: str, arguments: str) -> str:
    """A call of an earlier turn as the model would have written it; ``arguments`` is a JSON object's text."""
    return f'{hermes.BEGIN}\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {arguments}}}\n{hermes.END}'


def result_text(content: str) -> str:
    """A tool's answer, as text of a user's turn."""
    return f"<tool_response>\n{content}\n</tool_response>"


def read(cursor: Cursor, calls: Calls) -> Steps[None]:
    """A tagged call, a fenced block of calls, or bare JSON where the answer begins."""
    first = yield from cursor.peek()
    if first == "<":
        yield from hermes.read(cursor, calls)
    elif first == "`":
        yield from _fenced(cursor, calls)
    else:
        yield from _either(cursor, calls)


def _fenced(cursor: Cursor, calls: Calls) -> Steps[None]:
    yield from cursor.expect(FENCE)
    yield from cursor.accepts_any(_LANGUAGES)
    while True:
        yield from cursor.spaces()
        yield from _either(cursor, calls)
        yield from cursor.spaces()
        if (yield from cursor.accepts(FENCE)):
            return


def _either(cursor: Cursor, calls: Calls) -> Steps[None]:
    if (yield from cursor.peek()) == "[":
        yield from json_calls(cursor, calls, bare=True)
    else:
        yield from json_call(cursor, calls, bare=True)


GENERIC = ToolCallFormat(
    "generic",
    Opening((hermes.BEGIN, FENCE), bare="{["),
    read,
    hermes.WIRE,
    control_texts=(hermes.BEGIN, hermes.END),
    enforced=Opening((hermes.BEGIN,)),
)
