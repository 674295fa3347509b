"""One call as a JSON object, as constraint part: what ``json_call`` reads, in the spelling models were shown.

Knows no marks.
"""

from __future__ import annotations

import json

from runtime.constraint.spec import Json, Literal, Part, Sequence
from runtime.text.tool_calls.tool import Tool


def arguments_call(tool: Tool) -> Part:
    """``{"name": "f", "arguments": {...}}``."""
    return _call(tool, "arguments")


def parameters_call(tool: Tool) -> Part:
    """``{"name": "f", "parameters": {...}}``."""
    return _call(tool, "parameters")


def _call(tool: Tool, key: str) -> Part:
    head = f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "{key}": '
    return Sequence((Literal(head), Json(tool.parameters), Literal("}")))
