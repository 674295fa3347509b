"""What a field of a chat request is called in the request for a response that it was made from.

Rules between fields, the template and a schema's compiler speak of a chat request's fields; a client gets the error
with its own field, in the message too. Knows no rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from runtime.errors import RequestError, TemplateError

from api.request.response_messages import Origin

_FIELDS = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "include",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "tool_choice.function": "tool_choice",
}
"""A chat request's field -> ours; what is not here has the same name in both."""
_NAMED_BESIDE = ("response_format.json_schema", "response_format")
_MESSAGE = re.compile(r"messages\.(?P<message>\d+)(?:\.tool_calls\.(?P<call>\d+)(?:\.function)?)?(?P<rest>\..+)?")
_TOOL = re.compile(r"(?P<tool>tools\.\d+)\.function(?P<rest>\..+)?")


@contextmanager
def named_as_given(origins: Sequence[Origin]) -> Iterator[None]:
    """Within the block, errors of a chat request's fields come out as errors of the fields that they were made from.

    ``origins`` are those of the chat request's messages. A template's failure becomes one of ``input``.
    """
    try:
        yield
    except TemplateError as error:
        raise RequestError(str(error), "input") from error
    except RequestError as error:
        raise _renamed(error, origins) from error


def given_name(field: str, origins: Sequence[Origin]) -> str:
    """The name of a chat request's dotted ``field``."""
    if found := _MESSAGE.fullmatch(field):
        origin = origins[int(found["message"])]
        place = origin.message if found["call"] is None else origin.calls[int(found["call"])]
        has_parts = place.startswith("input.")
        return place + (found["rest"] or "") if has_parts else place
    if found := _TOOL.fullmatch(field):
        return found["tool"] + (found["rest"] or "")
    for name, ours in _FIELDS.items():
        if field == name or field.startswith(name + "."):
            return ours + field.removeprefix(name)
    return field


def _renamed(error: RequestError, origins: Sequence[Origin]) -> RequestError:
    field, message = error.field, str(error)
    if field is None:
        return error
    ours = given_name(field, origins)
    if message.startswith(field):
        message = ours + message.removeprefix(field)
    for name in _NAMED_BESIDE:  # where two fields contradict each other, the other one may be ours too
        message = message.replace(name, _FIELDS[name])
    return error if (message, ours) == (str(error), field) else RequestError(message, ours)
