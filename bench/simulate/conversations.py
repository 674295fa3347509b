"""Made conversations: how many turns, how long questions and answers are, how long a person thinks. Seeded.

The default is like ShareGPT's recorded chats. Kwon et al. (2023, "Efficient Memory Management for Large Language Model
Serving with PagedAttention", fig. 11) give a mean of 161 prompt and 338 answer tokens; Gao et al. (2024,
"Cost-Efficient Large Language Model Serving for Multi-turn Conversations with CachedAttention") 5.75 turns. Means are
theirs; that lengths are lognormal with these spreads, that turns are geometric and thinking is exponential, are
assumptions of ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Spread:
    """Lognormal lengths of a mean; ``sigma`` is the standard deviation of their logarithm, 0 makes all alike."""

    mean: float
    sigma: float

    def draw(self, rng: np.random.Generator, count: int) -> list[int]:
        """``count`` lengths of at least 1."""
        if self.sigma == 0:
            return [max(1, round(self.mean))] * count
        mu = math.log(self.mean) - self.sigma**2 / 2
        return [max(1, int(value)) for value in np.rint(rng.lognormal(mu, self.sigma, count)).tolist()]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationKind:
    """``turns`` is their mean, at least 1; ``fixed_turns`` makes it every conversation's number. ``think_s`` is the
    mean time between an answer's end and the next question; ``fixed_think`` makes it every one. ``opening_tokens``
    begin every conversation, the same ones: a system message."""

    question: Spread = Spread(161.0, 1.0)
    answer: Spread = Spread(338.0, 0.8)
    turns: float = 5.75
    think_s: float = 20.0
    opening_tokens: int = 64
    fixed_turns: bool = False
    fixed_think: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """Tokens of a question with what the template adds, tokens of its answer, seconds of thought before it."""

    question: int
    answer: int
    think_s: float


class Conversations:
    """An endless supply of conversations; the same seed gives the same ones."""

    def __init__(self, kind: ConversationKind, max_model_len: int, seed: int) -> None:
        self._kind = kind
        self._max_len = max_model_len
        self._rng = np.random.default_rng(seed)
        self._turns = self._endless_turns()

    def next(self) -> list[Turn]:
        """A conversation that fits the context: it ends before a turn that would not, and a first one is cut."""
        kind, wanted = self._kind, 1
        if kind.fixed_turns:
            wanted = round(kind.turns)
        elif kind.turns > 1:
            wanted = int(self._rng.geometric(1.0 / kind.turns))
        turns: list[Turn] = []
        room = self._max_len - kind.opening_tokens
        for _ in range(wanted):
            turn = next(self._turns)
            if turn.question + turn.answer > room:
                if not turns:
                    question = max(1, min(turn.question, room // 2))
                    turns.append(Turn(question, max(1, min(turn.answer, room - question)), turn.think_s))
                break
            room -= turn.question + turn.answer
            turns.append(turn)
        return turns

    def think(self) -> float:
        """Seconds that somebody takes before the first question: users must not come all at once."""
        return float(self._rng.uniform(0.0, max(self._kind.think_s, 1.0)))

    def _endless_turns(self) -> Iterator[Turn]:
        kind, rng = self._kind, self._rng
        while True:
            questions, answers = kind.question.draw(rng, _BLOCK), kind.answer.draw(rng, _BLOCK)
            thinks = [kind.think_s] * _BLOCK if kind.fixed_think else rng.exponential(kind.think_s, _BLOCK).tolist()
            yield from map(Turn, questions, answers, thinks)
