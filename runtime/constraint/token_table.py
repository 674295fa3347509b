"""A vocabulary as llguidance holds it: a trie of all tokens' bytes. Costs 40 MB and up to 0.7 s for 50,000 tokens.

Knows no grammar. What the library forces is written by the model's own tokenizer, so that a forced text has the tokens
that the model would have chosen; a text that this tokenizer does not give back byte by byte is written greedily.
"""

from __future__ import annotations

from collections.abc import Sequence

import llguidance

from runtime.constraint.vocabulary import Vocabulary
from runtime.errors import RequestError


def token_table(vocabulary: Vocabulary) -> llguidance.LLTokenizer:
    """Blocks while it builds; the global lock is held for most of it."""
    wrapper = _Wrapper(vocabulary)
    table = llguidance.LLTokenizer(wrapper, eos_token=list(vocabulary.end_ids))
    wrapper.table = table
    return table


class _Wrapper:
    """What llguidance asks of a tokenizer; the names are the library's."""

    is_tokenizer_wrapper = True

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = vocabulary.token_bytes
        self.eos_token_id = vocabulary.end_ids[0]
        self.bos_token_id = None
        self.special_token_ids = sorted({*vocabulary.control_ids.values(), *vocabulary.end_ids})
        self.table: llguidance.LLTokenizer | None = None
        self._encode = vocabulary.encode
        self._specials = frozenset(self.special_token_ids)

    def __call__(self, text: str) -> Sequence[int]:
        try:
            token_ids = self._encode(text)
        except RequestError:
            return self._greedy(text)
        written = b"".join([self.tokens[token_id] for token_id in token_ids])
        if written != text.encode() or not self._specials.isdisjoint(token_ids):
            return self._greedy(text)
        return token_ids

    def _greedy(self, text: str) -> Sequence[int]:
        return self.table.greedy_tokenize(text) if self.table is not None else ()
