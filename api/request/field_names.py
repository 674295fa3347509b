"""What a field of a chat request is called in the request that it was made from.

Rules between fields, the template and a schema's compiler speak of a chat request's fields; a client gets the error
with its own field, in the message too. Knows no rule and no kind of request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from runtime.errors import RequestError, TemplateError

_NAMED_BESIDE = ("response_format.json_schema", "response_format")
_MESSAGE = re.compile(r"messages\.(?P<message>\d+)(?:\.tool_calls\.(?P<call>\d+)(?:\.function)?)?(?P<rest>\..+)?")
_TOOL = re.compile(r"(?P<tool>tools\.\d+)\.function(?P<rest>\..+)?")


@dataclass(frozen=True, slots=True)
class Origin:
    """The places in the given request of a chat request's message and of each of its calls."""

    message: str
    calls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GivenNames:
    """The names of one request's fields.

    ``fields`` holds a chat request's field, or the last part of one within a tool or a call, and the given name;
    what is not there has the same name in both. ``conversation`` is where the messages came from, ``origins`` where
    each of them did.
    """

    fields: Mapping[str, str]
    conversation: str
    origins: tuple[Origin, ...]

    @contextmanager
    def in_errors(self) -> Iterator[None]:
        """Within the block, errors of a chat request's fields come out as errors of the given ones.

        A template's failure becomes one of the conversation.
        """
        try:
            yield
        except TemplateError as error:
            raise RequestError(str(error), self.conversation) from error
        except RequestError as error:
            raise self._renamed(error) from error

    def given(self, field: str) -> str:
        """The given name of a chat request's dotted ``field``."""
        if field == "messages":
            return self.conversation
        if found := _MESSAGE.fullmatch(field):
            origin = self.origins[int(found["message"])]
            place = origin.message if found["call"] is None else origin.calls[int(found["call"])]
            return place + self._rest(found["rest"]) if "." in place else place
        if found := _TOOL.fullmatch(field):
            return found["tool"] + self._rest(found["rest"])
        for name, ours in self.fields.items():
            if field == name or field.startswith(name + "."):
                return ours + field.removeprefix(name)
        return field

    def _rest(self, rest: str | None) -> str:
        """What follows a tool or a call: one name, by which it is known here or there."""
        name = (rest or "").removeprefix(".")
        return f".{self.fields.get(name, name)}" if name else ""

    def _renamed(self, error: RequestError) -> RequestError:
        field, message = error.field, str(error)
        if field is None:
            return error
        ours = self.given(field)
        if message.startswith(field):
            message = ours + message.removeprefix(field)
        for name in _NAMED_BESIDE:  # where two fields contradict each other, the other one may be ours too
            message = message.replace(name, self.fields[name])
        return error if (message, ours) == (str(error), field) else RequestError(message, ours)
