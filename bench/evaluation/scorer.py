"""Texts -> their log-probabilities under a model, through a session's first slot. Owns how a text becomes tokens.

A context that several continuations share is computed once. Texts that do not fit the slot lose their beginning, as in
lm-eval. Knows no question, no average and no package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from runtime.session.distribution import log_softmax
from runtime.session.session import Session

from bench.errors import BenchError

PIECE_TOKENS = 32
"""Tokens whose logits exist at once: 6 MB of a vocabulary of 49,152."""
_CONTEXT_TOKENS = 256
_SLOT = 0

Encode = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class Score:
    """The log-probability of a text in nats, over how many tokens, and whether each was the likeliest one."""

    log_prob: float
    num_tokens: int
    is_greedy: bool


class Scorer:
    """Scores texts one after another. ``encode`` gives a text's token ids, with the model's own first token if any.

    ``start_id`` stands before a text that has nothing before it, in a model whose texts begin with no token of their
    own. Raises BenchError where a session gives logits that are no numbers.
    """

    def __init__(self, session: Session, encode: Encode, start_id: int) -> None:
        self._session = session
        self._encode = encode
        self._start_id = start_id
        self._room = session.info.max_model_len
        self._held: list[int] = []

    def continuations(self, context: str, choices: Sequence[str]) -> list[Score]:
        """The score of each choice as what follows the context. Tokens are split where lm-eval splits them."""
        before = self._encode(context) or [self._start_id]
        return [self._continuation(before, self._encode(context + choice)) for choice in choices]

    def rolling(self, text: str) -> Score:
        """The score of a whole text, in windows as long as the slot; each is predicted from its own beginning."""
        ids = self._encode(text)
        begin = [self._start_id]
        if self._encode("")[:1] == ids[:1] and ids:
            begin, ids = ids[:1], ids[1:]
        size = self._room - 1
        parts = [self._scored(begin, ids[at : at + size]) for at in range(0, len(ids), size)]
        return Score(math.fsum(part.log_prob for part in parts), len(ids), all(part.is_greedy for part in parts))

    def forget(self) -> None:
        """The slot was used by others: nothing in it is known any more."""
        self._held = []

    def _continuation(self, before: list[int], whole: list[int]) -> Score:
        return self._scored(before, whole[len(before) :] if len(whole) > len(before) else whole[-1:])

    def _scored(self, before: Sequence[int], following: Sequence[int]) -> Score:
        """The score of ``following`` after ``before``, neither empty."""
        if not following:
            return Score(0.0, 0, is_greedy=True)
        ids = [*before, *following][-self._room :]
        begin = max(1, len(ids) - len(following))
        self._hold(ids[: begin - 1])
        log_probs, likeliest = [], True
        for start, stop in _pieces(begin - 1, len(ids)):
            logits = self._session.prefill(_SLOT, np.array(ids[start:stop], np.int64), start, stop - start)
            rows = min(stop, len(ids) - 1) - start  # the last token of all has none to predict
            targets = np.array(ids[start + 1 : start + 1 + rows], np.int64)
            likeliest = likeliest and bool((logits[:rows].argmax(axis=-1) == targets).all())
            log_probs += log_softmax(logits[:rows])[np.arange(rows), targets].tolist()
        total = math.fsum(log_probs)
        if not math.isfinite(total):
            raise BenchError("the model gives logits that are no numbers; export it anew, or in another precision")
        return Score(total, len(log_probs), likeliest)

    def _hold(self, ids: list[int]) -> None:
        """Have exactly these tokens computed in the slot, unless they are already."""
        if ids == self._held:
            return
        for start, stop in _pieces(0, len(ids), _CONTEXT_TOKENS):
            self._session.prefill(_SLOT, np.array(ids[start:stop], np.int64), start, 0)
        self._held = list(ids)


def _pieces(start: int, stop: int, most: int = PIECE_TOKENS) -> Iterator[tuple[int, int]]:
    """[start, stop) in pieces of at most ``most``; none has one token unless there is only one.

    One token takes the decode path of the attention kernel, which sums in another order.
    """
    while (left := stop - start) > 0:
        size = min(left, most)
        size -= left - size == 1
        yield start, start + size
        start += size
