"""What an answer must look like for its calls to hold their tools' schemas: a format's calls as constraint parts.

Owns how calls are put together. A format states its marks once, as a ``Wire``; from that come the three ways to ask for
calls. Builds values only: no schema is read and nothing is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from runtime.constraint.spec import Either, Literal, Part, Pattern, Repeat, Tag, Tagged
from runtime.constraint.spec import Sequence as InTurn
from runtime.text.tool_calls.parameters import Parameter
from runtime.text.tool_calls.tool import Tool

_MOST_OPTIONAL = 16


@dataclass(frozen=True, slots=True)
class Wire:
    """How calls stand in an answer.

    ``call`` is one call of a tool without the block's marks ``begin`` and ``end``. ``within`` separates calls inside a
    block, ``between`` blocks; None: there is only one. In free text a block begins at ``trigger``, the start of
    ``begin``. A format without a mark has ``bare`` instead, the character that its blocks begin with: its calls stand
    for the whole answer, and any other text begins with another character.
    """

    call: Callable[[Tool], Part]
    begin: str = ""
    end: str = ""
    trigger: str = ""
    bare: str = ""
    within: str | None = None
    between: str | None = "\n"

    def demanded(self, tools: Sequence[Tool], *, single: bool) -> Part:
        """One or more calls and nothing else."""
        block = InTurn(tuple(self._marked(self._inside(tools, single=single))))
        if self.between is None or single:
            return block
        return Repeat(block, at_least=1, separator=self.between)

    def offered(self, tools: Sequence[Tool], *, single: bool) -> Part:
        """Free text, with calls that hold their schemas."""
        if self.bare:
            text = Pattern(rf"\s*[^\s{re.escape(self.bare)}][\s\S]*")
            return Either((self.demanded(tools, single=single), text))
        tag = Tag(self.begin, self._inside(tools, single=single), self.end, self.trigger)
        return Tagged((tag,), stop_after_first=single)

    def _marked(self, inside: Part) -> Iterator[Part]:
        if self.begin:
            yield Literal(self.begin)
        yield inside
        if self.end:
            yield Literal(self.end)

    def _inside(self, tools: Sequence[Tool], *, single: bool) -> Part:
        calls = tuple(self.call(tool) for tool in tools)
        one = calls[0] if len(calls) == 1 else Either(calls)
        if self.within is None or single:
            return one
        return Repeat(one, at_least=1, separator=self.within)


def keywords(
    declared: Sequence[Parameter], part: Callable[[Parameter], Part], separator: str
) -> tuple[Part, ...] | None:
    """The parameters of one call, ``separator`` between them, each optional one there or not.

    Those that are required stand first: only what follows another can begin with a separator. Where none is required
    each may be the first, which takes a branch for each; None where there are too many for that.
    """
    first = [parameter for parameter in declared if parameter.required]
    rest = [parameter for parameter in declared if not parameter.required]
    if first:
        joined = [item for parameter in first for item in (Literal(separator), part(parameter))][1:]
        return (*joined, *_following(rest, part, separator))
    if not rest:
        return ()
    if len(rest) > _MOST_OPTIONAL:
        return None
    branches = tuple(
        InTurn((part(parameter), *_following(rest[place + 1 :], part, separator)))
        for place, parameter in enumerate(rest)
    )
    return (optional(Either(branches)),)


def optional(part: Part) -> Part:
    """A part that is there or not."""
    return Either((part, Literal("")))


def _following(declared: Sequence[Parameter], part: Callable[[Parameter], Part], separator: str) -> tuple[Part, ...]:
    return tuple(optional(InTurn((Literal(separator), part(parameter)))) for parameter in declared)
