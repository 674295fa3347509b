"""Random walks through llguidance's masks over a rewritten schema, and an independent validator of what they wrote."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from time import thread_time
from typing import Any, cast

import jsonschema_rs
import numpy as np
from llguidance import LLMatcher, LLTokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from runtime.constraint.schema.keywords import DRAFTS
from runtime.constraint.schema.rewriting import LLGUIDANCE_OPTIONS

_VALIDATORS = {
    4: jsonschema_rs.Draft4Validator,
    6: jsonschema_rs.Draft6Validator,
    7: jsonschema_rs.Draft7Validator,
    2019: jsonschema_rs.Draft201909Validator,
    2020: jsonschema_rs.Draft202012Validator,
}


@dataclass(slots=True)
class Vocabulary:
    """A tokenizer's tokens, and which of them bring a text to its end."""

    tokenizer: LLTokenizer
    end: int
    closing: np.ndarray[Any, np.dtype[np.bool_]]

    @classmethod
    def of(cls, tokenizer_json: Path | None = None) -> Vocabulary:
        """The tokens of a tokenizer's file, or every byte as a token."""
        tokenizer = LLTokenizer(str(tokenizer_json) if tokenizer_json else "byte")
        names = [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)]
        closing = np.array([bool(name) and all(byte in b'"]},:0123456789' for byte in name) for name in names])
        return cls(tokenizer, tokenizer.eos_token, closing)


@dataclass(slots=True)
class Walk:
    """What one walk wrote. ``finished``: it ended where the mask let it; else it is a prefix."""

    text: str = ""
    finished: bool = False
    error: str = ""
    mask_us: list[float] = field(default_factory=list)


def compiled(schema_json: str, vocabulary: Vocabulary) -> LLMatcher:
    """A matcher of a rewritten schema. Raises ValueError with the library's reason."""
    options = cast("Any", dict(LLGUIDANCE_OPTIONS))
    grammar = LLMatcher.grammar_from_json_schema(schema_json, overrides=options)
    matcher = LLMatcher(vocabulary.tokenizer, grammar, log_level=0)
    if matcher.is_error():
        raise ValueError(matcher.get_error())
    return matcher


def walked(matcher: LLMatcher, vocabulary: Vocabulary, seed: int, *, limit: int = 400) -> Walk:
    """One walk: tokens drawn from each mask, half of them from those that close something, until the end."""
    chance, walk, tokens = random.Random(seed), Walk(), []
    matcher = matcher.deep_copy()
    bitmask = allocate_token_bitmask(1, vocabulary.tokenizer.vocab_size)
    for step in range(limit):
        start = thread_time()
        fill_next_token_bitmask(matcher, bitmask)
        walk.mask_us.append((thread_time() - start) * 1e6)
        allowed = np.unpackbits(bitmask.view(np.uint8), bitorder="little")[: len(vocabulary.closing)].astype(bool)
        if matcher.is_error() or not allowed.any():
            walk.error = matcher.get_error() or "no token is allowed"
            break
        closing = allowed & vocabulary.closing
        if allowed[vocabulary.end] and (chance.random() < 0.5 or not (allowed & ~closing).any()):
            walk.finished = True
            break
        allowed[vocabulary.end] = False
        haste = 0.3 if step < 60 else 0.8
        choices = np.flatnonzero(closing if closing.any() and chance.random() < haste else allowed)
        token = int(choices[chance.randrange(len(choices))]) if len(choices) else vocabulary.end
        if token == vocabulary.end:
            walk.finished = True
            break
        tokens.append(token)
        if not matcher.consume_token(token):
            walk.error = matcher.get_error() or "a token of the mask was refused"
            break
    walk.text = vocabulary.tokenizer.decode_bytes(tokens).decode("utf-8", "replace")
    return walk


def validator(schema: Any) -> Any:
    """An exact validator of the schema's draft, formats included. Raises ValueError where it refuses the schema."""
    named = schema.get("$schema") if isinstance(schema, dict) else None
    draft = DRAFTS.get(named.rstrip("#"), 2020) if isinstance(named, str) else 2020
    return _VALIDATORS[draft](schema, validate_formats=True)


def admits(matcher: LLMatcher, vocabulary: Vocabulary, text: str) -> bool:
    """Whether the masks let exactly this text be written."""
    matcher = matcher.deep_copy()
    tokens = vocabulary.tokenizer.tokenize_str(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def is_valid(check: Any, text: str) -> bool:
    """Whether a text is JSON that the validator accepts."""
    return bool(check.is_valid(json.loads(text, parse_float=_number)))


def _number(text: str) -> float | Decimal:
    """A number of any size is valid JSON; one of a thousand digits stands for those that no double holds."""
    value = float(text)
    return value if abs(value) != float("inf") else Decimal("-1E+1000" if value < 0 else "1E+1000")
