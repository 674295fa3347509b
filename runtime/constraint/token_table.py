"""A vocabulary as llguidance holds it: a trie of all tokens' bytes. Costs 40 MB and up to 0.7 s for 50,000 tokens.

Knows no grammar. What the library forces is written by the model's own tokenizer, so that a forced text has the tokens
that the model would have chosen; a text that this tokenizer does not give back byte by byte is written greedily.
"""

from __future__ import annotations

from typing import cast

import llguidance
from llguidance import TokenizerWrapper

from runtime.constraint.control_names import ControlNames
from runtime.constraint.vocabulary import Vocabulary
from runtime.errors import RequestError


class TokenTable:
    """``library`` is what llguidance's matchers take. Blocks while it is built, mostly under the interpreter's lock.

    ``token_bytes`` and ``end_ids`` are the vocabulary's; ``special_ids`` are the tokens that no text ever becomes.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.token_bytes = vocabulary.token_bytes
        self.end_ids = frozenset(vocabulary.end_ids)
        self.special_ids = frozenset({*vocabulary.control_ids.values(), *vocabulary.end_ids})
        self._encode = vocabulary.encode
        self._names = ControlNames(vocabulary.control_ids)
        # The library asks for the attributes of its own wrapper, not for the class.
        wrapper = cast("TokenizerWrapper", _Wrapper(self, vocabulary))
        self.library = llguidance.LLTokenizer(wrapper, eos_token=list(vocabulary.end_ids))
        self.written("a")  # a tokenizer may build something with its first text; no mask should wait for that

    def written(self, text: str) -> list[int]:
        """Token ids of ordinary text, which spell it byte by byte and hold no control token."""
        if self._encode is None:
            return self.library.greedy_tokenize(text)
        try:
            token_ids = self._encode(text)
        except RequestError:
            return self.library.greedy_tokenize(text)
        spelled = b"".join([self.token_bytes[token_id] for token_id in token_ids])
        if spelled != text.encode() or not self.special_ids.isdisjoint(token_ids):
            return self.library.greedy_tokenize(text)
        return token_ids

    def spelled(self, part: bytes) -> list[int]:
        """Tokens that spell these bytes, which may end amid a character; where no token can, they spell less."""
        return self.library.tokenize_bytes(part)

    def tokens_of(self, text: str) -> list[int]:
        """Token ids of a server's text: the names of control tokens are those tokens."""
        segments = self._names.segments(text)
        lists = [[segment] if isinstance(segment, int) else self.written(segment) for segment in segments]
        return [token_id for token_ids in lists for token_id in token_ids]


class _Wrapper:
    """What llguidance asks of a tokenizer; the names are the library's."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, table: TokenTable, vocabulary: Vocabulary) -> None:
        self._table = table
        self.tokens = vocabulary.token_bytes
        self.eos_token_id = vocabulary.end_ids[0]
        self.special_token_ids = sorted({*vocabulary.control_ids.values(), *vocabulary.end_ids})

    def __call__(self, text: str) -> list[int]:
        return self._table.written(text)
