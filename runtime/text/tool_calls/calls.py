"""The calls of one answer, as a format's reader finds them, until they are told.

Owns which names are tools', the count of calls, and what was found but not told yet. Knows no format and no text.
"""

from __future__ import annotations

from collections.abc import Iterable

from runtime.text.answer_delta import AnswerDelta, ArgumentsDelta, CallStarted
from runtime.text.tool_calls.parameters import Parameter, parameters
from runtime.text.tool_calls.tool import Tool


class Calls:
    """``count`` calls were found; the last one takes ``arguments``."""

    __slots__ = ("_declared", "_pieces", "_untold", "count", "tools")

    def __init__(self, tools: Iterable[Tool]) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self.count = 0
        self._declared: dict[str, dict[str, Parameter]] = {}
        self._untold: list[AnswerDelta] = []
        self._pieces: list[str] = []  # of the last call's arguments

    def declared(self, name: str) -> dict[str, Parameter]:
        """A tool's parameters. Its schema is read once, however often it is called."""
        if name not in self._declared:
            self._declared[name] = parameters(self.tools[name])
        return self._declared[name]

    def start(self, name: str) -> None:
        """A call of a tool begins."""
        self._join()
        self._untold.append(CallStarted(self.count, name))
        self.count += 1

    def arguments(self, text: str) -> None:
        """More of the last call's arguments."""
        if text:
            self._pieces.append(text)

    def take(self) -> list[AnswerDelta]:
        """What was found since the last ``take``."""
        self._join()
        told, self._untold = self._untold, []
        return told

    def forget(self, count: int) -> None:
        """What was not taken was no call after all; ``count`` calls are left."""
        self._untold.clear()
        self._pieces.clear()
        self.count = count

    def _join(self) -> None:
        if self._pieces:
            self._untold.append(ArgumentsDelta(self.count - 1, "".join(self._pieces)))
            self._pieces.clear()
