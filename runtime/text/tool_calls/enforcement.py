"""What an answer must look like for its calls to hold their tools' schemas: a format's calls as constraint parts.

Owns how calls are put together. A format states its marks once, as a ``Wire``; from that come the three ways to ask for
calls. Builds values only: no schema is read and nothing is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.constraint.spec import Either, Literal, Part, Pattern, Repeat, Tag, Tagged
from runtime.constraint.spec import Sequence as InTurn
from runtime.text.tool_calls.tool import Tool


@dataclass(frozen=True, slots=True)
class Wire:
    """How calls stand in an answer.

    ``call`` is one call of a tool without the block's marks ``begin`` and ``end``. ``within`` separates calls inside a
    block, ``between`` blocks; None: there is only one. In free text a block begins at ``trigger``, the start of
    ``begin``; empty where it has no mark of its own, and then calls stand where the answer begins, in place of a text.
    """

    call: Callable[[Tool], Part]
    begin: str
    end: str
    trigger: str
    within: str | None = None
    between: str | None = "\n"

    def demanded(self, tools: Sequence[Tool], *, single: bool) -> Part:
        """One or more calls and nothing else."""
        block = InTurn((Literal(self.begin), self._inside(tools, single=single), Literal(self.end)))
        if self.between is None or single:
            return block
        return Repeat(block, at_least=1, separator=self.between)

    def offered(self, tools: Sequence[Tool], *, single: bool) -> Part:
        """Free text, with calls that hold their schemas."""
        if self.trigger:
            tag = Tag(self.begin, self._inside(tools, single=single), self.end, self.trigger)
            return Tagged((tag,), stop_after_first=single)
        text = Pattern(rf"\s*[^\s{''.join(chr(92) + character for character in self.begin[:1] or '{')}](?s:.)*")
        return Either((self.demanded(tools, single=single), text))

    def _inside(self, tools: Sequence[Tool], *, single: bool) -> Part:
        calls = tuple(self.call(tool) for tool in tools)
        one = calls[0] if len(calls) == 1 else Either(calls)
        if self.within is None or single:
            return one
        return Repeat(one, at_least=1, separator=self.within)
