"""A constraint's parts -> one grammar in llguidance's format: a list of grammars as JSON, the first of which leads.

Whatever is regular becomes one terminal: between two terminals the library reads the longest first, so that a pattern
followed by a text that it could also match would never end. Knows no tokens but control tokens, compiles nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from runtime.constraint.choices import choice_expression
from runtime.constraint.control_names import ControlNames
from runtime.constraint.lark import check_lark
from runtime.constraint.pattern import translated
from runtime.constraint.pattern_atom import escaped
from runtime.constraint.schema.rewriting import LLGUIDANCE_OPTIONS, rewritten
from runtime.constraint.spec import (
    Choice,
    Either,
    Json,
    Lark,
    Literal,
    Part,
    Pattern,
    Repeat,
    Sequence,
    Tag,
    Tagged,
    Unless,
    Until,
)
from runtime.errors import RequestError

_ANY_TEXT = "/(?s:.*)/"


class Grammar(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What llguidance compiles; ``has_lark`` where a part of it is a client's own grammar."""

    text: str
    has_lark: bool


def grammar_of(part: Part, control_ids: Mapping[str, int]) -> Grammar:
    """The whole grammar. Raises RequestError, without a field, for what is refused before compiling."""
    return _Writer(control_ids).grammar(part)


@dataclass(frozen=True, slots=True)
class _Expression:
    """A piece of Lark. A terminal is regular and may stand inside another; else it may stand inside rules only."""

    text: str
    is_terminal: bool


class _Writer:
    def __init__(self, control_ids: Mapping[str, int]) -> None:
        self._controls = ControlNames(control_ids)
        self._lines: list[str] = []
        self._grammars: list[dict[str, Any]] = []
        self._has_lark = False
        self._triggers: dict[str, str] = {}
        self._writers: dict[type[Part], Callable[[Any], _Expression]] = {
            Json: self._json,
            Pattern: self._pattern,
            Choice: self._choice,
            Lark: self._lark,
            Literal: self._literal,
            Until: self._until,
            Sequence: self._sequence,
            Either: self._either,
            Unless: self._unless,
            Repeat: self._repeat,
            Tagged: self._tagged,
        }

    def grammar(self, part: Part) -> Grammar:
        """The grammar of the whole. Where that is one schema, or one grammar of a client's, it stands alone: the one
        line of Lark around it takes the library longer than most schemas do.
        """
        start = self._as_rule(self._write(part))
        lines = [f"start: {start}", *self._lines]
        leading = [] if isinstance(part, Json | Lark) else [{"lark_grammar": "\n".join(lines)}]
        grammars = [*leading, *self._grammars]
        return Grammar(text=msgspec.json.encode({"grammars": grammars}).decode(), has_lark=self._has_lark)

    def _write(self, part: Part) -> _Expression:
        return self._writers[type(part)](part)

    def _as_rule(self, expression: _Expression) -> str:
        return self._terminal(expression.text) if expression.is_terminal else expression.text

    def _terminal(self, text: str) -> str:
        if text == '""':
            return text
        name = f"T{len(self._lines)}"
        self._lines.append(f"{name}: {text}")
        return name

    def _rule(self, text: str, attribute: str = "") -> str:
        name = f"r{len(self._lines)}"
        self._lines.append(f"{name}{attribute}: {text}")
        return name

    def _json(self, part: Json) -> _Expression:
        schema = msgspec.json.decode(rewritten(part.schema))
        if isinstance(schema, dict):
            schema = {**schema, "x-guidance": dict(LLGUIDANCE_OPTIONS)}
        return self._subgrammar("json_schema", schema)

    def _lark(self, part: Lark) -> _Expression:
        check_lark(part.grammar)
        self._has_lark = True
        return self._subgrammar("lark_grammar", part.grammar)

    def _subgrammar(self, kind: str, value: object) -> _Expression:
        name = f"g{len(self._grammars)}"
        self._grammars.append({"name": name, kind: value})
        return _Expression(f"@{name}", is_terminal=False)

    def _pattern(self, part: Pattern) -> _Expression:
        return _Expression(_regex(translated(part.regex)), is_terminal=True)

    def _choice(self, part: Choice) -> _Expression:
        return _Expression(_regex(choice_expression(part.texts)), is_terminal=True)

    def _literal(self, part: Literal) -> _Expression:
        segments = self._controls.segments(part.text)
        if any(isinstance(segment, int) for segment in segments):
            return _Expression(" ".join(map(self._segment, segments)), is_terminal=False)
        return _Expression(_regex(escaped(part.text)), is_terminal=True)

    def _until(self, part: Until) -> _Expression:
        return _Expression(self._free_until(self._controls.segments(part.end)), is_terminal=False)

    def _sequence(self, part: Sequence) -> _Expression:
        return self._combined([self._write(inner) for inner in part.parts], " ")

    def _either(self, part: Either) -> _Expression:
        if not part.parts:
            raise RequestError("nothing is left to choose from")
        return self._combined([self._write(inner) for inner in part.parts], " | ")

    def _combined(self, expressions: list[_Expression], joint: str) -> _Expression:
        if all(expression.is_terminal for expression in expressions):
            texts = [expression.text for expression in expressions]
            return _Expression(f"({joint.join(texts)})" if texts else '""', is_terminal=True)
        return _Expression(f"({joint.join(map(self._as_rule, expressions))})", is_terminal=False)

    def _unless(self, part: Unless) -> _Expression:
        begun = "|".join(map(escaped, part.begins))
        return _Expression(f"({self._write(part.part).text} & ~/(?s:({begun}).*)/)", is_terminal=True)

    def _repeat(self, part: Repeat) -> _Expression:
        inner, separator = self._write(part.part), self._literal(Literal(part.separator))
        if not (inner.is_terminal and separator.is_terminal):
            inner = _Expression(self._rule(self._as_rule(inner)), is_terminal=False)
            separator = _Expression(self._as_rule(separator), is_terminal=False)
        if part.at_most == 0:
            return _Expression('""', is_terminal=True)
        more = "" if part.at_most == 1 else f"({separator.text} {inner.text}){_more_times(part)}"
        text = f"({inner.text} {more})"
        return _Expression(f"{text}?" if part.at_least == 0 else text, is_terminal=inner.is_terminal)

    def _tagged(self, part: Tagged) -> _Expression:
        rest: dict[str, list[str]] = {}
        for tag in part.tags:
            trigger, following = self._opening(tag)
            body, end = self._as_rule(self._write(tag.body)), self._as_rule(self._literal(Literal(tag.end)))
            rest.setdefault(trigger, []).append(f"{following} {body} {end}")
        tags = [f"{trigger} ({' | '.join(bodies)})" for trigger, bodies in rest.items()]
        free = self._terminal(_ANY_TEXT)
        if not tags:
            return _Expression(free, is_terminal=False)
        one = self._rule(" | ".join(tags))
        if part.stop_after_first:
            return _Expression(one if part.at_least_one else f"({one} | {free})", is_terminal=False)
        return _Expression(f"({one}{'+' if part.at_least_one else '*'} {free})", is_terminal=False)

    def _opening(self, tag: Tag) -> tuple[str, str]:
        """The rule for free text up to and with a tag's trigger, shared by tags of one trigger; the rest of its begin.

        A trigger that ends inside a control token's name is taken to the end of the token.
        """
        trigger = len(tag.trigger)
        for start, end in self._controls.spans(tag.begin):
            if start < trigger < end:
                trigger = end
        opening = tag.begin[:trigger]
        if opening not in self._triggers:
            self._triggers[opening] = self._free_until(self._controls.segments(opening))
        return self._triggers[opening], self._as_rule(self._literal(Literal(tag.begin[trigger:])))

    def _free_until(self, segments: list[str | int]) -> str:
        """Any text up to and with the first occurrence of these; a control token can occur nowhere else."""
        first_token = next((at for at, segment in enumerate(segments) if isinstance(segment, int)), None)
        if first_token is None:
            return self._rule(_followed(_ANY_TEXT, segments), "[lazy]")
        text = self._terminal(_followed(_ANY_TEXT, segments[:first_token]))
        return self._rule(" ".join([text, *map(self._segment, segments[first_token:])]))

    def _segment(self, segment: str | int) -> str:
        return f"<[{segment}]>" if isinstance(segment, int) else self._terminal(_regex(escaped(segment)))


def _regex(expression: str) -> str:
    return f"/{expression}/" if expression else '""'


def _followed(expression: str, texts: Iterable[str | int]) -> str:
    return " ".join([expression, *(_regex(escaped(str(text))) for text in texts)])


def _more_times(repeat: Repeat) -> str:
    """How often the part may come after the first time; Lark knows no range that ends at 0."""
    least = max(repeat.at_least - 1, 0)
    if repeat.at_most is None:
        return f"{{{least},}}" if least else "*"
    return f"{{{least},{repeat.at_most - 1}}}"
