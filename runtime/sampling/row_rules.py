"""A choice's rules -> its slot's row of a selection table, where a session can draw by them; and what came back.

What a session can draw by is ``runtime.package.selection_io``'s: up to 32 edits, a mask, 20 log-probabilities. The rest
stays the host's. Rules that cannot change are written once per choice; its number, edits and mask once per token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.events import TokenLogprobs
from runtime.package import selection_io as io
from runtime.sampling.allowed_tokens import Allowed
from runtime.sampling.logit_rules import Edits
from runtime.sampling.sampler import LOGPROB_FLOOR, Sampled, SamplerState
from runtime.session.selected import Chosen, is_settled
from runtime.session.selection_table import SelectionTable
from runtime.token_mask import WORD_BITS, MaskArray

_MOST_TOP_K = 2**31 - 1
_EDIT_COLUMNS = (io.EDIT_IDS, io.EDIT_BIAS, io.EDIT_PENALTY, io.EDIT_SUBTRACT)


class RowRules:
    """Keeps ``table`` true for whichever choice has each slot. One for a session's life."""

    def __init__(self, num_slots: int, vocab_size: int) -> None:
        self.table = SelectionTable(num_slots, vocab_size)
        self._words = -(-vocab_size // WORD_BITS)
        self._states: list[SamplerState | None] = [None] * num_slots
        self._num_edits = [0] * num_slots
        self._allowed: dict[int, MaskArray] = {}
        self._uniforms = self.table.columns[io.UNIFORM]

    def write(self, slot: int, state: SamplerState, allowed: Allowed | None, ahead: int = 0) -> bool:
        """Write the row of the choice's next token; False where only the host can draw it, and the row means nothing.

        ``ahead`` is how many tokens come before it that are not known yet, which only rules that ask for none of them
        allow (``LogitRules.asks_for_tokens``). The choice's number is used up by whoever draws in the end.
        """
        if self._states[slot] is not state:
            self._begin(slot, state)
        params = state.params
        if params.logprobs is not None and (params.allowed_token_ids or params.logprobs > io.MAX_TOP_LOGPROBS):
            return False
        if not state.rules.is_neutral:
            edits = state.rules.edits(io.MAX_EDITS, ahead)
            if edits is None:
                return False
            self._write_edits(slot, edits)
        mask = None if allowed is None else state.ends.applied(allowed)
        if params.allowed_token_ids:
            wanted = self._allowed[slot]
            mask = wanted if mask is None else mask[: len(wanted)] & wanted
        if mask is not None:
            self.table.masks[slot] = mask
        elif slot in self.table.masks:
            del self.table.masks[slot]
        self._uniforms[slot] = state.upcoming(ahead)
        return True

    def _begin(self, slot: int, state: SamplerState) -> None:
        params, columns = state.params, self.table.columns
        self._states[slot] = state
        is_greedy = params.is_greedy
        columns[io.INVERSE_TEMPERATURE][slot] = 1.0 if is_greedy else 1.0 / params.temperature
        columns[io.TOP_K][slot] = 1 if is_greedy else min(params.top_k, _MOST_TOP_K)
        columns[io.TOP_P][slot] = 1.0 if is_greedy else params.top_p
        columns[io.MIN_P][slot] = 0.0 if is_greedy else params.min_p
        self.table.masks.pop(slot, None)
        self._write_edits(slot, Edits.none())
        if params.allowed_token_ids:
            self._allowed[slot] = _mask_of(params.allowed_token_ids, self._words)

    def _write_edits(self, slot: int, edits: Edits) -> None:
        count, before = len(edits.ids), self._num_edits[slot]
        if not count and not before:
            return
        for name, values in zip(_EDIT_COLUMNS, (edits.ids, edits.bias, edits.penalty, edits.subtract), strict=True):
            row = self.table.columns[name][slot]
            row[:count] = values
            row[count:before] = io.neutral(name, self.table.vocab_size)
        self._num_edits[slot] = count


def taken(chosen: Chosen, states: Sequence[SamplerState | None]) -> list[Sampled | None]:
    """The tokens that a session settled for rows [B] with a state, which notes them; None is the host's to draw."""
    found: list[Sampled | None] = []
    rows = zip(states, chosen.tokens.tolist(), chosen.settled.tolist(), strict=True)
    for place, (state, token_id, settled) in enumerate(rows):
        if state is None or not is_settled(settled, top=state.params.logprobs is not None):
            found.append(None)
            continue
        state.uniform()  # which the session drew by
        state.rules.observe(token_id)
        told = None if state.params.logprobs is None else _told(chosen, place, state.params.logprobs)
        found.append(Sampled(token_id, told))
    return found


def _told(chosen: Chosen, place: int, count: int) -> TokenLogprobs:
    ids, values = chosen.top_ids[place, :count].tolist(), chosen.top_logprobs[place, :count].tolist()
    top = tuple((token_id, max(value, LOGPROB_FLOOR)) for token_id, value in zip(ids, values, strict=True))
    return TokenLogprobs(max(float(chosen.logprobs[place]), LOGPROB_FLOOR), top)


def _mask_of(token_ids: Sequence[int], num_words: int) -> MaskArray:
    ids = np.unique(np.array(token_ids, np.int64))
    mask = np.zeros(num_words, np.uint32)
    np.bitwise_or.at(mask, ids // WORD_BITS, np.uint32(1) << (ids % WORD_BITS).astype(np.uint32))
    return mask
