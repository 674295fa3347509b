"""A client's regular expression -> one that means the same to llguidance, matched as a whole.

Clients write Python's or JavaScript's dialect, the library reads that of Rust's regex crate. Where dialects differ, the
result accepts only what both accept: ``\\d`` is ASCII where it must match and Unicode where it must not. Anchors at the
ends say what holds anyway and are dropped. What cannot be had exactly (look-around, back-references, anchors inside,
possessive repetition) is refused. Knows no grammar; the classes and escapes are ``pattern_atom``'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from runtime.constraint import limits
from runtime.constraint.pattern_atom import escaped, read_class, read_escape
from runtime.errors import RequestError

_COUNT = re.compile(r"\{(?:(\d+)|(\d*),(\d*))\}")
_FLAGS = re.compile(r"\(\?([a-zA-Z]+)\)")
_NAMED_GROUP = re.compile(r"\(\?P?<[^\W\d]\w*>")
_START, _END = r"\A", r"\z"
_REFUSED_GROUPS = {
    "(?=": "look-ahead",
    "(?!": "look-ahead",
    "(?<=": "look-behind",
    "(?<!": "look-behind",
    "(?>": "an atomic group",
    "(?P=": "a back-reference",
    "(?(": "a conditional group",
}


@dataclass(frozen=True, slots=True)
class _Token:
    """``kind``: atom, anchor, open, close, bar or repeat. ``most`` of a repeat is None where it has no end."""

    kind: str
    text: str = ""
    least: int = 1
    most: int | None = 1


def translated(pattern: str) -> str:
    """The library's expression for texts that ``pattern`` matches as a whole; may be empty.

    Raises RequestError, without a field, that says what is refused and at which character.
    """
    if len(pattern) > limits.MAX_PATTERN_CHARS:
        raise RequestError(f"the pattern has {len(pattern)} characters; at most {limits.MAX_PATTERN_CHARS} are allowed")
    tokens = _Reader(pattern).tokens()
    tokens = _without_anchors(_without_anchors(tokens, _START), _END)
    _check_positions(tokens)
    return "".join(token.text for token in tokens)


class _Reader:
    """Splits a pattern into tokens, each already in the library's spelling."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0
        self._found: list[_Token] = []

    def tokens(self) -> list[_Token]:
        """All tokens. Raises RequestError."""
        pattern = self._pattern
        if match := _FLAGS.match(pattern):
            self._flags(match[1])
            self._at = match.end()
        while self._at < len(pattern):
            self._found.append(self._next(pattern[self._at]))
        if self._depth:
            raise RequestError(f"the pattern has {self._depth} '(' without a ')'")
        return self._found

    def _next(self, character: str) -> _Token:
        if character == "(":
            return self._group()
        if character == "[":
            text, self._at = read_class(self._pattern, self._at)
            return _Token("atom", text)
        if character == "\\":
            return self._escape()
        if character in "*+?" or (character == "{" and _COUNT.match(self._pattern, self._at)):
            return self._repeat()
        self._at += 1
        if character == ")":
            self._depth -= 1
            if self._depth < 0:
                raise RequestError(f"the pattern has a ')' without a '(' at character {self._at - 1}")
            return _Token("close", ")")
        if character in "^$":
            return _Token("anchor", _START if character == "^" else _END)
        return (
            _Token("bar", "|") if character == "|" else _Token("atom", "." if character == "." else escaped(character))
        )

    def _group(self) -> _Token:
        here = self._pattern[self._at : self._at + 4]
        for opening, what in _REFUSED_GROUPS.items():
            if here.startswith(opening):
                raise RequestError(f"the pattern has {what} at character {self._at}, which is not supported")
        self._depth += 1
        if self._depth > limits.MAX_PATTERN_DEPTH:
            raise RequestError(f"the pattern nests more than {limits.MAX_PATTERN_DEPTH} groups")
        if not here.startswith("(?"):
            self._at += 1
        elif here.startswith("(?:"):
            self._at += 3
        elif match := _NAMED_GROUP.match(self._pattern, self._at):
            self._at = match.end()
        else:
            raise RequestError(f"the pattern has a group {here!r} at character {self._at}, which is not supported")
        return _Token("open", "(?:")

    def _escape(self) -> _Token:
        following = self._pattern[self._at + 1 : self._at + 2]
        if following and following in "AZz":
            self._at += 2
            return _Token("anchor", _START if following == "A" else _END)
        text, self._at = read_escape(self._pattern, self._at)
        return _Token("atom", text)

    def _repeat(self) -> _Token:
        if not self._found or self._found[-1].kind not in {"atom", "close"}:
            raise RequestError(f"the pattern repeats nothing at character {self._at}")
        if match := _COUNT.match(self._pattern, self._at):
            self._at = match.end()
            least, most = _bounds(match)
            text = f"{{{least},{'' if most is None else most}}}"
        else:
            text = self._pattern[self._at]
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[text]
            self._at += 1
        if self._pattern[self._at : self._at + 1] == "?":
            self._at += 1  # how much is taken first makes no difference to which texts match as a whole
        elif self._pattern[self._at : self._at + 1] == "+":
            raise RequestError(
                f"the pattern has a possessive repetition at character {self._at}, which is not supported"
            )
        return _Token("repeat", text, least, most)

    def _flags(self, letters: str) -> None:
        if set(letters) - set("is"):
            raise RequestError(f"the pattern has the flags {letters!r}; supported are i and s, at its start")
        self._found.append(_Token("flags", f"(?{letters})"))


def _bounds(match: re.Match[str]) -> tuple[int, int | None]:
    exactly, least_digits, most_digits = match.groups()
    if exactly is not None:
        return int(exactly[:9]), int(exactly[:9])
    least, most = int(least_digits[:9] or 0), int(most_digits[:9]) if most_digits else None
    if most is not None and most < least:
        raise RequestError(f"the pattern's repetition {match[0]!r:.40} has its bounds the wrong way round")
    return least, most


def _without_anchors(tokens: list[_Token], anchor: str) -> list[_Token]:
    """Drop ``anchor`` where nothing can lie between it and the end of the text that it names; else refuse.

    Each level of groups remembers whether its alternative is still empty on that side; a repeated group never is.
    """
    opening = "open" if anchor == _START else "close"
    ordered = tokens if anchor == _START else tokens[::-1]
    repeated = _repeated_groups(tokens)
    levels: list[tuple[bool, bool]] = [(True, True)]  # (the group lies at the end, its alternative is empty so far)
    kept = []
    for position, token in enumerate(ordered):
        at_end, is_empty = levels[-1]
        if token.kind == "anchor" and token.text == anchor:
            if not (at_end and is_empty):
                raise RequestError(
                    "the pattern has an anchor inside: it is matched as a whole, so they are for its ends"
                )
            continue
        kept.append(token)
        if token.kind == opening:
            index = position if anchor == _START else len(tokens) - 1 - position
            levels.append((at_end and is_empty and index not in repeated, True))
        elif token.kind in {"open", "close"}:
            levels.pop()
            levels[-1] = (levels[-1][0], False)
        elif token.kind == "bar":
            levels[-1] = (at_end, True)
        elif token.kind == "atom":
            levels[-1] = (at_end, False)
    return kept if anchor == _START else kept[::-1]


def _repeated_groups(tokens: list[_Token]) -> set[int]:
    """Positions of the opening and closing tokens of groups that a repetition follows."""
    found: set[int] = set()
    open_at: list[int] = []
    for position, token in enumerate(tokens):
        if token.kind == "open":
            open_at.append(position)
        elif token.kind == "close":
            start = open_at.pop()
            if tokens[position + 1 : position + 2] and tokens[position + 1].kind == "repeat":
                found |= {start, position}
    return found


def _check_positions(tokens: list[_Token]) -> None:
    """Refuse what would be too long with its repetitions written out: no other limit bounds their cost."""
    levels = [0]
    last = 0
    for token in tokens:
        if token.kind == "open":
            levels.append(0)
        elif token.kind == "close":
            last = levels.pop()
            levels[-1] += last
        elif token.kind == "atom":
            last = 1
            levels[-1] += last
        elif token.kind == "repeat":
            times = max(token.least, token.most or 1, 1)
            levels[-1] += last * (times - 1)
        if levels[-1] > limits.MAX_PATTERN_POSITIONS:
            raise RequestError(
                f"the pattern is {levels[-1]} characters long with its repetitions written out; "
                f"at most {limits.MAX_PATTERN_POSITIONS} are allowed"
            )
