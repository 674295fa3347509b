"""Random constraints, random ways: what ends satisfies an independent check, and from everywhere there is an end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.constraint.compiler import ConstraintCompiler
from runtime.constraint.spec import Choice, Either, Json, Literal, Part, Pattern, Repeat, Sequence, Tag, Tagged, Until
from tests.runtime.constraint.walks import compiled, walk

Checked = tuple[Part, Callable[[str], bool]]
ATOMS = st.sampled_from(
    ["a", "é", "hello", r"\d", r"\w", r"[^\sa-z]", r"[\d_-]", ".", r"\.", "[a-c]", r"\S", "/", "😀"]
)


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["?", "*", "+", "{1,2}", "{2}", "{,2}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    )


PATTERNS = st.recursive(ATOMS, grown, max_leaves=5).map(
    lambda regex: (Pattern(f"^(?:{regex})$"), lambda text: re.fullmatch(regex, text) is not None)
)
CHOICES = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=6, unique=True).map(
    lambda texts: (Choice(tuple(texts)), lambda text: text in texts)
)
VALUES = st.sampled_from([
    ({"type": "integer", "minimum": -5, "maximum": 120}, lambda value: type(value) is int and -5 <= value <= 120),
    ({"enum": ["x", 1, None]}, lambda value: value in ["x", 1, None]),
    ({"type": "string", "maxLength": 3}, lambda value: isinstance(value, str) and len(value) <= 3),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
     lambda value: value in [[a] for a in (True, False)] + [[a, b] for a in (True, False) for b in (True, False)]),
])  # fmt: skip


def is_object(text: str, checks: dict[str, Callable[[Any], bool]]) -> bool:
    value = json.loads(text)
    if not isinstance(value, dict):
        return False
    compact = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return (
        value.keys() == checks.keys()
        and all(check(value[key]) for key, check in checks.items())
        and (
            len(text) <= len(compact) * 6  # no whitespace; only escapes may be longer than need be
        )
    )


OBJECTS = st.lists(VALUES, min_size=1, max_size=3).map(
    lambda values: (
        Json(json.dumps({
            "type": "object",
            "properties": {f"k{at}": schema for at, (schema, _) in enumerate(values)},
            "required": [f"k{at}" for at in range(len(values))],
            "additionalProperties": False,
        })),
        lambda text: is_object(text, {f"k{at}": check for at, (_, check) in enumerate(values)}),
    )
)  # fmt: skip
SIMPLE: st.SearchStrategy[Checked] = st.one_of(PATTERNS, CHOICES, OBJECTS)


def composed(inner: Checked, other: Checked) -> list[Checked]:
    (part, check), (second, check_second) = inner, other

    def is_framed(text: str) -> bool:
        return text.startswith("[[") and text.endswith("]]") and check(text[2:-2])

    def is_tagged(text: str) -> bool:
        _, _, rest = text.partition("<f>")
        return (not rest and "<f" not in text) or (rest.endswith("</f>") and check(rest[: -len("</f>")]))

    return [
        (Sequence((Literal("[["), part, Literal("]]"))), is_framed),
        (Either((part, second)), lambda text: _holds(check, text) or _holds(check_second, text)),
        (Sequence((Until("</think>"), part)), lambda text: check(text.partition("</think>")[2])),
        (Repeat(part, 1, 1), check),
        (Tagged((Tag("<f>", part, "</f>", "<f"),), stop_after_first=True), is_tagged),
    ]


def _holds(check: Callable[[str], bool], text: str) -> bool:
    try:
        return check(text)
    except ValueError:
        return False


SPECS = st.one_of(
    SIMPLE, st.tuples(SIMPLE, SIMPLE, st.integers(0, 4)).map(lambda drawn: composed(*drawn[:2])[drawn[2]])
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SPECS, st.integers(0, 99))
def test_every_way_that_ends_satisfies_the_constraint(compiler: ConstraintCompiler, spec: Checked, seed: int) -> None:
    part, check = spec
    constraint = compiled(compiler, part)
    for further in range(3):
        way = walk(constraint, seed + further, max_tokens=200)
        if way.has_ended:
            assert check(way.text), way.text
            assert constraint.accepts_text(way.text)
        else:  # free text that by chance says no mark, or half of one
            assert isinstance(part, Tagged) or (isinstance(part, Sequence) and isinstance(part.parts[0], Until))
