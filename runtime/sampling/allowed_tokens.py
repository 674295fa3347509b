"""What a constraint's mask leaves of a row of logits, together with the tokens by which a choice may end.

A mask of JSON often holds a handful of tokens: those are gathered, and the row is left alone. Knows one row and one
mask at a time; knows no constraint, no other rule, and draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.request import Request
from runtime.session.session import FloatArray
from runtime.token_mask import WORD_BITS, MaskArray

_HANDFUL_WORDS = 8
"""Words with a token up to which plain Python finds the bits sooner than five numpy calls with the caches cold."""
_FEW_WORDS = 128
"""Words with a token up to which to gather (15 us) is faster than to hide the others in the whole row (30 us), not
counting that the draw then has no row to go through."""

_BYTE_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_HIDING = np.where(_BYTE_BITS, np.float32(0), np.float32(-np.inf))
"""What to add to eight logits, by their byte of the mask [256, 8]. To write where a bit is 0 branches at each token."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """A matcher's ``mask`` of the next token, and whether the text before it satisfies the constraint.

    Only a choice with ``stop_token_ids`` needs the latter. ``sole`` is the mask's only token, where that is known.
    """

    mask: MaskArray
    may_end: bool = False
    sole: int | None = None


class EndTokens:
    """The tokens that end a choice, as far as its constraint does not know them.

    ``stop_token_ids`` may come where the text before them satisfies the constraint, and nowhere else. Under
    ``ignore_eos`` the model's own come only where nothing else may: there is nothing to go on with.
    """

    def __init__(self, request: Request) -> None:
        self._stops = np.array(sorted(request.sampling.stop_token_ids), np.int64)
        ignored = request.eos_token_ids - request.sampling.stop_token_ids if request.sampling.ignore_eos else ()
        self._ignored = np.array(sorted(ignored), np.int64)
        self.is_neutral = not len(self._stops) and not len(self._ignored)

    def applied(self, allowed: Allowed) -> MaskArray:
        """The mask [ceil(V / 32)] with these rules."""
        mask = allowed.mask
        if len(self._stops):
            mask = _set(mask, self._stops) if allowed.may_end else _cleared(mask, self._stops)
        if len(self._ignored):
            others = _cleared(mask, self._ignored)
            mask = others if others.any() else mask
        return mask


def few_allowed(mask: MaskArray, vocab_size: int) -> NDArray[np.int64] | None:
    """Ids of the tokens of a mask, ascending, below ``vocab_size``; None if they are many."""
    words = mask.nonzero()[0]
    if len(words) <= _HANDFUL_WORDS:
        found = [first for word in words.tolist() for first in _bits_of(int(mask[word]), word * WORD_BITS)]
        return np.array([token_id for token_id in found if token_id < vocab_size], np.int64)
    if len(words) > _FEW_WORDS:
        return None
    places = np.unpackbits(mask.take(words).view(np.uint8), bitorder="little").nonzero()[0]
    ids = words.take(places // WORD_BITS) * WORD_BITS + places % WORD_BITS
    return ids[: int(ids.searchsorted(vocab_size))]


def hide_others(logits: FloatArray, mask: MaskArray) -> None:
    """Make -inf of each logit of a row [V] whose token the mask does not hold."""
    logits += _HIDING.take(mask.view(np.uint8), axis=0).reshape(-1)[: len(logits)]


def _bits_of(word: int, first: int) -> list[int]:
    """Places of the bits of a word, counted from ``first`` on."""
    places = []
    while word:
        lowest = word & -word
        places.append(first + lowest.bit_length() - 1)
        word ^= lowest
    return places


def _bits(token_ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], MaskArray]:
    return token_ids // WORD_BITS, np.uint32(1) << (token_ids % WORD_BITS).astype(np.uint32)


def _set(mask: MaskArray, token_ids: NDArray[np.int64]) -> MaskArray:
    changed = mask.copy()
    np.bitwise_or.at(changed, *_bits(token_ids))
    return changed


def _cleared(mask: MaskArray, token_ids: NDArray[np.int64]) -> MaskArray:
    changed = mask.copy()
    words, bits = _bits(token_ids)
    np.bitwise_and.at(changed, words, ~bits)
    return changed
