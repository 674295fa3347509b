"""How large a constraint is before anything is done with it: characters, parts and nesting. Compiles nothing."""

from __future__ import annotations

from runtime.constraint import limits
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
    Tagged,
    Unless,
    Until,
)
from runtime.errors import RequestError


def checked_size(part: Part) -> int:
    """Characters of all texts in the tree. Raises RequestError, without a field, where it is too large."""
    size = count = deepest = 0
    waiting: list[tuple[Part, int]] = [(part, 1)]
    while waiting:
        current, depth = waiting.pop()
        count, deepest = count + 1, max(deepest, depth)
        texts, inner = _content(current)
        size += sum(map(len, texts))
        waiting += [(child, depth + 1) for child in inner]
    if deepest > limits.MAX_PART_DEPTH:
        raise RequestError(f"the constraint nests {deepest} levels deep; at most {limits.MAX_PART_DEPTH} are allowed")
    if count > limits.MAX_PARTS:
        raise RequestError(f"the constraint has {count} parts; at most {limits.MAX_PARTS} are allowed")
    if size > limits.MAX_SPEC_CHARS:
        raise RequestError(f"the constraint has {size} characters; at most {limits.MAX_SPEC_CHARS} are allowed")
    return size


def _content(part: Part) -> tuple[tuple[str, ...], tuple[Part, ...]]:
    """A part's own texts, and the parts inside it. Raises RequestError for too many choices."""
    match part:
        case Json(text) | Pattern(text) | Lark(text) | Literal(text) | Until(text):
            return (text,), ()
        case Choice(texts):
            if len(texts) > limits.MAX_CHOICES:
                raise RequestError(f"there are {len(texts)} choices; at most {limits.MAX_CHOICES} are allowed")
            return texts, ()
        case Sequence(parts) | Either(parts):
            return (), parts
        case Unless(inner, begins):
            return begins, (inner,)
        case Repeat(inner, separator=separator):
            return (separator,), (inner,)
        case Tagged(tags):
            return tuple(text for tag in tags for text in (tag.begin, tag.end)), tuple(tag.body for tag in tags)
