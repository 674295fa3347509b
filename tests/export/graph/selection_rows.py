"""Rows and their rules for a selection head, and what the host makes of each: the two must agree.

A ``Case`` is one row: logits, a request's rules, tokens drawn before, a constraint's mask, and the next number.
``packed_rows`` writes cases as a head's inputs, in the host's order: bans and bias, repetition, then the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.package import selection_io as io
from runtime.sampling.allowed_tokens import Allowed
from runtime.sampling.sampler import NoToken, Sampled, SamplerState, sample
from tests.runtime.engine_driver import request
from tests.runtime.scripted_constraint import packed

F32 = NDArray[np.float32]


@dataclass
class Case:
    """One row [V]; ``sampling`` are fields of SamplingParams, ``seen`` the tokens drawn before."""

    logits: F32
    sampling: dict[str, Any] = field(default_factory=dict)
    uniform: float = 0.5
    seen: tuple[int, ...] = ()
    prompt: tuple[int, ...] = (0,)
    allowed: frozenset[int] | None = None

    def host(self) -> Sampled | NoToken | None:
        """What the host draws, told with 20 log-probabilities."""
        asked = request("r", list(self.prompt), **{"temperature": 1.0, "logprobs": 20, "seed": 1, **self.sampling})
        state = SamplerState(asked, 0)
        for token_id in self.seen:
            state.rules.observe(token_id)
        state._uniforms = [self.uniform]
        mask = None if self.allowed is None else Allowed(packed(set(self.allowed), len(self.logits)))
        return sample(self.logits[np.newaxis].copy(), [state], [mask])[0]

    def edits(self) -> dict[int, tuple[float, np.float32, np.float32]]:
        """Token -> (bias, penalty, what is subtracted), float32 as in ``LogitRules``."""
        asked = self.sampling
        bias = dict(asked.get("logit_bias", ()))
        bias |= {words[0]: -np.inf for words in asked.get("bad_words", ())}
        penalty = np.float32(asked.get("repetition_penalty", 1.0))
        repeated = {*self.prompt, *self.seen} if penalty != 1 else set()
        frequency, presence = asked.get("frequency_penalty", 0.0), asked.get("presence_penalty", 0.0)
        drawn = set(self.seen) if frequency or presence else set()
        found = {}
        for token_id in {*bias, *repeated, *drawn}:
            less = np.float32(0)
            if token_id in drawn:
                counts = np.array([self.seen.count(token_id)], np.float32)
                less = (frequency * counts + np.float32(presence))[0]
            divisor = penalty if token_id in repeated else np.float32(1)
            found[token_id] = (bias.get(token_id, 0.0), divisor, less)
        return found


def packed_rows(cases: list[Case], *, has_mask: bool) -> dict[str, NDArray[Any]]:
    """The head's inputs for rows of one vocabulary."""
    num_rows, vocab_size = len(cases), len(cases[0].logits)

    def column(name: str, default: float, dtype: type[np.generic]) -> NDArray[Any]:
        return np.array([case.sampling.get(name, default) for case in cases], dtype)

    temperatures = np.array([case.sampling.get("temperature", 1.0) for case in cases])
    is_greedy = temperatures < 1e-5
    feeds: dict[str, NDArray[Any]] = {
        io.LOGITS: np.stack([case.logits for case in cases]),
        io.INVERSE_TEMPERATURE: (1.0 / np.where(is_greedy, 1.0, temperatures)).astype(np.float32),
        io.TOP_K: np.where(is_greedy, 1, column("top_k", 0, np.int32)).astype(np.int32),
        io.TOP_P: column("top_p", 1.0, np.float32),
        io.MIN_P: column("min_p", 0.0, np.float32),
        io.UNIFORM: np.array([case.uniform for case in cases], np.float32),
        io.EDIT_IDS: np.full((num_rows, io.MAX_EDITS), vocab_size, np.int32),
        io.EDIT_BIAS: np.zeros((num_rows, io.MAX_EDITS), np.float32),
        io.EDIT_PENALTY: np.ones((num_rows, io.MAX_EDITS), np.float32),
        io.EDIT_SUBTRACT: np.zeros((num_rows, io.MAX_EDITS), np.float32),
    }
    for row, case in enumerate(cases):
        for place, (token_id, values) in enumerate(case.edits().items()):
            feeds[io.EDIT_IDS][row, place] = token_id
            for name, value in zip((io.EDIT_BIAS, io.EDIT_PENALTY, io.EDIT_SUBTRACT), values, strict=True):
                feeds[name][row, place] = value
    if has_mask:
        every = frozenset(range(vocab_size))
        masks = [packed(set(every if case.allowed is None else case.allowed), vocab_size) for case in cases]
        feeds[io.MASK] = np.stack(masks).view(np.uint8)
    return feeds
