"""What changes a choice's logits before its token is drawn: allow-lists, bans, bias and penalties, as sparse updates.

One object per choice; it remembers which tokens the choice has seen. Order as in vLLM's v1 sampler:
allowed_token_ids, bad_words, min_tokens, logit_bias, then repetition, frequency and presence penalties.
Knows one row of logits at a time; knows no temperature and draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.request import Request
from runtime.sampling.seen_tokens import SeenTokens
from runtime.session.session import FloatArray

LOGIT_BIAS_LIMIT = 100.0
"""Biases are clamped to +-100, as in the OpenAI API."""


@dataclass(frozen=True, slots=True)
class Edits:
    """Rules as changes of single logits, each id once: ``bias`` is added, a value above 0 divided by ``penalty`` and
    any other multiplied with it, ``subtract`` taken away, all [N], in the arithmetic of ``LogitRules.apply``."""

    ids: NDArray[np.int64]
    bias: FloatArray
    penalty: FloatArray
    subtract: FloatArray

    @classmethod
    def none(cls, count: int = 0) -> Edits:
        """Edits of so many tokens, of id 0, that change nothing."""
        zeros = np.zeros(count, np.float32)
        return cls(np.zeros(count, np.int64), zeros, np.ones(count, np.float32), zeros.copy())


class LogitRules:
    """The rules of one choice. ``apply`` before drawing, ``observe`` after."""

    def __init__(self, request: Request) -> None:
        params = request.sampling
        self._params = params
        self._num_generated = 0
        self._generated: list[int] = []
        self._allowed = np.array(sorted(set(params.allowed_token_ids)), np.int64)
        self._bias_ids = np.array([token_id for token_id, _ in params.logit_bias], np.int64)
        bias = np.array([value for _, value in params.logit_bias], np.float32)
        self._bias = np.clip(bias, -LOGIT_BIAS_LIMIT, LOGIT_BIAS_LIMIT)
        single_words = {words[0] for words in params.bad_words if len(words) == 1}
        self._always_banned = np.array(sorted(single_words), np.int64)
        # By the token before the last: a step then looks at the few words that it may complete, not at all of them.
        self._words_by_head: dict[int, list[tuple[int, ...]]] = {}
        for words in params.bad_words:
            if len(words) > 1:
                self._words_by_head.setdefault(words[-2], []).append(words)
        end_ids = params.stop_token_ids | request.eos_token_ids
        self._end_ids = np.array(sorted(end_ids), np.int64)
        self._penalises = bool(params.frequency_penalty or params.presence_penalty)
        self._drawn = SeenTokens()
        self._seen = SeenTokens(request.prompt_ids) if params.repetition_penalty != 1.0 else self._drawn
        self.is_neutral = not (
            params.allowed_token_ids
            or params.bad_words
            or params.min_tokens
            or params.logit_bias
            or self._penalises
            or params.repetition_penalty != 1.0
        )

    @property
    def asks_for_tokens(self) -> bool:
        """Whether the next token's rules follow from which tokens came before, and not only from how many."""
        return self._penalises or self._seen is not self._drawn or bool(self._words_by_head)

    @property
    def banning(self) -> list[str]:
        """The request's fields that ban tokens now, in the order in which they are applied."""
        params = self._params
        in_force = {
            "allowed_token_ids": bool(params.allowed_token_ids),
            "bad_words": bool(params.bad_words),
            "min_tokens": self._num_generated < params.min_tokens,
        }
        return [name for name, is_in_force in in_force.items() if is_in_force]

    def apply(self, logits: FloatArray) -> None:
        """Change a row of logits [V] in place."""
        if self.is_neutral:
            return
        params = self._params
        if len(self._allowed):
            kept = logits[self._allowed]
            logits.fill(-np.inf)
            logits[self._allowed] = kept
        if params.bad_words:
            self._ban_words(logits)
        if self._num_generated < params.min_tokens:
            logits[self._end_ids] = -np.inf
        if len(self._bias_ids):
            logits[self._bias_ids] += self._bias
        if params.repetition_penalty != 1.0:
            self._apply_repetition(logits)
        if self._penalises and len(self._drawn):
            penalty = params.frequency_penalty * self._drawn.counts + np.float32(params.presence_penalty)
            logits[self._drawn.ids] -= penalty

    def edits(self, most: int, ahead: int = 0) -> Edits | None:
        """What ``apply`` does beside ``allowed_token_ids``; None if more than ``most`` tokens change.

        It does so now, or after ``ahead`` tokens that are not known yet.
        """
        params = self._params
        repeats, drawn = params.repetition_penalty != 1.0, self._penalises and len(self._drawn) > 0
        if (repeats and len(self._seen) > most) or (drawn and len(self._drawn) > most):
            return None
        banned = self._banned(ahead)
        places: dict[int, int] = {}
        for ids in (banned, self._bias_ids, self._seen.ids if repeats else (), self._drawn.ids if drawn else ()):
            for token_id in ids:
                places.setdefault(int(token_id), len(places))
        if len(places) > most:
            return None
        edits = Edits.none(len(places))
        edits.ids[:] = list(places)

        def at(ids: NDArray[np.int64]) -> list[int]:
            return [places[token_id] for token_id in ids.tolist()]

        edits.bias[at(self._bias_ids)] = self._bias
        edits.bias[[places[token_id] for token_id in banned]] = -np.inf
        if repeats:
            edits.penalty[at(self._seen.ids)] = params.repetition_penalty
        if drawn:
            penalty = params.frequency_penalty * self._drawn.counts + np.float32(params.presence_penalty)
            edits.subtract[at(self._drawn.ids)] = penalty
        return edits

    def observe(self, token_id: int) -> None:
        """Record the token that was drawn."""
        self._num_generated += 1
        if self.is_neutral:
            return
        if self._penalises:
            self._drawn.draw(token_id)
        if self._seen is not self._drawn:
            self._seen.draw(token_id)
        if self._params.bad_words:
            self._generated.append(token_id)

    def _apply_repetition(self, logits: FloatArray) -> None:
        """Divide positive and multiply negative logits of seen tokens (Keskar et al. 2019, section 4.1)."""
        ids = self._seen.ids
        seen = logits[ids]
        penalty = np.float32(self._params.repetition_penalty)
        logits[ids] = np.where(seen > 0, seen / penalty, seen * penalty)

    def _ban_words(self, logits: FloatArray) -> None:
        """Mask each token that would complete a banned sequence after what was generated."""
        logits[self._always_banned] = -np.inf
        for token_id in self._completing():
            logits[token_id] = -np.inf

    def _completing(self) -> list[int]:
        """The tokens that would complete a banned sequence of several."""
        found = []
        for words in self._words_by_head.get(self._generated[-1], ()) if self._generated else ():
            num_before = len(words) - 1
            if tuple(self._generated[-num_before:]) == words[:-1]:
                found.append(words[-1])
        return found

    def _banned(self, ahead: int) -> list[int]:
        """Every token that bad_words and min_tokens ban, after ``ahead`` more tokens."""
        banned = [*self._always_banned.tolist(), *self._completing()] if self._params.bad_words else []
        return banned + (self._end_ids.tolist() if self._num_generated + ahead < self._params.min_tokens else [])
