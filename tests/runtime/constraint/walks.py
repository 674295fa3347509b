"""Random ways through constraints, over a vocabulary small enough to read: all bytes, some words, control tokens."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from runtime.constraint.compiler import ConstraintCompiler
from runtime.constraint.constraint import CompiledConstraint
from runtime.constraint.control_names import ControlNames
from runtime.constraint.matcher import GrammarMatcher, satisfied
from runtime.constraint.spec import ConstraintSpec, Part
from runtime.text.tokenizer import Tokenizer
from tests.api.programs import CONTROL, IM_END, IM_START, VOCAB_SIZE, tokenizer_json

TOKENIZER = Tokenizer(tokenizer_json(), VOCAB_SIZE)
END_IDS = (IM_END, CONTROL)
CONTROL_IDS = TOKENIZER.vocabulary(END_IDS).control_ids
FIELD = "structured_outputs"


@dataclass(frozen=True, slots=True)
class Walk:
    """Tokens without the end token; ``has_ended`` where one was drawn."""

    token_ids: tuple[int, ...]
    has_ended: bool

    @property
    def text(self) -> str:
        """The text, in which control tokens show by their names; raises UnicodeDecodeError for half a character."""
        return b"".join(map(TOKENIZER.token_bytes, self.token_ids)).decode()


def compiled(compiler: ConstraintCompiler, part: Part) -> CompiledConstraint:
    return compiler.submit(ConstraintSpec(part, FIELD)).result(timeout=60)


def accepts_text(constraint: CompiledConstraint, text: str) -> bool:
    """Whether this text, as a whole, satisfies the constraint; the names of control tokens in it are those tokens."""
    written = constraint._table.written
    segments = ControlNames(CONTROL_IDS).segments(text)
    lists = [[segment] if isinstance(segment, int) else written(segment) for segment in segments]
    token_ids = [token_id for token_ids in lists for token_id in token_ids]
    matcher = constraint._copy()
    return matcher.try_consume_tokens(token_ids) == len(token_ids) and satisfied(matcher)


def allowed(matcher: GrammarMatcher) -> list[int]:
    """The tokens of the next mask, in order."""
    matcher.start()
    assert matcher.wait(60)
    bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
    return [int(token_id) for token_id in np.flatnonzero(bits)]


def walk(constraint: CompiledConstraint, seed: int, max_tokens: int = 60) -> Walk:
    """Draws among the allowed tokens; ends half of the times that it may."""
    drawn, matcher = random.Random(seed), constraint.matcher()
    token_ids: list[int] = []
    while len(token_ids) < max_tokens:
        tokens = allowed(matcher)
        assert tokens, "a mask is never empty"
        assert (tokens[-1] in END_IDS or END_IDS[0] in tokens) == matcher.may_end
        if END_IDS[0] in tokens:
            assert set(END_IDS) <= set(tokens), "all end tokens or none"
            if len(tokens) == len(END_IDS) or drawn.random() < 0.5:
                matcher.commit(drawn.choice(END_IDS))
                matcher.close()
                return Walk(tuple(token_ids), has_ended=True)
        token_ids.append(drawn.choice([token_id for token_id in tokens if token_id not in END_IDS]))
        matcher.commit(token_ids[-1])
    matcher.close()
    return Walk(tuple(token_ids), has_ended=False)


def with_text(constraint: CompiledConstraint, text: str) -> GrammarMatcher:
    """A matcher after this text, byte by byte; control tokens by their names."""
    matcher = constraint.matcher()
    control = {"<|im_start|>": IM_START}
    while text:
        name = next((name for name in control if text.startswith(name)), text[0])
        for token_id in [control[name]] if name in control else name.encode():
            matcher.commit(token_id)
        text = text[len(name) :]
    return matcher
