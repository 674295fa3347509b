"""What a tool-call format is to everyone else: a name, marks, a parser and the constraint that enforces it.

Knows no particular format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from runtime.constraint.spec import Part
from runtime.text.answer_delta import AnswerParser
from runtime.text.tool_calls.enforcement import Wire
from runtime.text.tool_calls.parser import Opening, Reader, ToolCallParser
from runtime.text.tool_calls.tool import Tool

_ANY_OBJECT = '{"type":"object"}'


@dataclass(frozen=True, slots=True)
class ToolCallFormat:
    """One way to write calls.

    ``opening`` is where the parser looks for a call, ``enforced`` where it looks when a constraint holds: only where
    the constraint puts calls. ``control_texts`` are the marks that may be control tokens of the model: where they are,
    their text must reach the parser although control tokens are otherwise left out of the text.
    """

    name: str
    opening: Opening
    reader: Reader
    wire: Wire
    control_texts: tuple[str, ...] = ()
    enforced: Opening | None = None

    def parser(self, tools: Sequence[Tool], *, single: bool = False, enforced: bool = False) -> AnswerParser:
        """Reads one choice. ``enforced``: the text is held to ``part``, so calls are told while they are written."""
        opening = (enforced and self.enforced) or self.opening
        return ToolCallParser(opening, self.reader, tools, single=single, eager=enforced)

    def demanded(self, tools: Sequence[Tool], *, single: bool = False) -> Part:
        """``tool_choice`` "required", or of one named function (then with that tool alone and ``single``).

        One or more calls in this format and nothing else; every tool's schema holds.
        """
        return self.wire.demanded(tools, single=single)

    def offered(self, tools: Sequence[Tool], *, single: bool = False) -> Part | None:
        """``tool_choice`` "auto": free text with calls. None where no tool is strict, and nothing is enforced.

        Where one is, every call is held to its form, a strict tool's to its schema, and any other's arguments to an
        object.
        """
        if not any(tool.strict for tool in tools):
            return None
        held = [tool if tool.strict else replace(tool, parameters=_ANY_OBJECT) for tool in tools]
        return self.wire.offered(held, single=single)
