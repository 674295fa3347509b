"""A vocabulary as llguidance holds it: a trie of all tokens' bytes. Costs 40 MB and up to 0.7 s for 50,000 tokens.

Knows no grammar. What the library forces is written by the model's own tokenizer, so that a forced text has the tokens
that the model would have chosen; a text that this tokenizer does not give back byte by byte is written greedily.
"""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import llguidance
from llguidance import TokenizerWrapper

from runtime.constraint.vocabulary import Vocabulary
from runtime.errors import RequestError

_KEPT_TEXTS, _KEPT_CHARS = 1024, 128
"""Texts whose tokens are kept, and how long they may be: 5 MB at the very most."""

_CHARS_OF_SLICES = (10, 14, 30)
_SLICES = [
    r"[\x20\x0A\x0D\x09]+",
    *(rf'[^"\\\x00-\x1F\x7F]{{1,{most}}}' for most in _CHARS_OF_SLICES),
    r'[^"\\\x00-\x1F\x7F]+',
]
"""Tokens of which a mask has all or none: where all that a pattern describes may come, the library looks at none of its
tokens, and at the longer ones instead. Of text whose limit is 14 or more characters away few are longer than 14; the
library's own list goes from 10 to 30 at once, and a mask there took eight times as long. A mask never depends on this
list. Below 10 a finer one gains nothing: most tokens are longer than what is left. Each pattern costs 4 MB and 30 ms
once, and each constraint's compiling 0.05 ms."""


class TokenTable:
    """``library`` is what llguidance's matchers take. Blocks while it is built, mostly under the interpreter's lock.

    ``token_bytes`` and ``end_ids`` are the vocabulary's; ``special_ids`` are the tokens that no text ever becomes.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.token_bytes = vocabulary.token_bytes
        self.end_ids = frozenset(vocabulary.end_ids)
        self.special_ids = frozenset({*vocabulary.control_ids.values(), *vocabulary.end_ids})
        self._encode = vocabulary.encode
        self._kept_tokens = lru_cache(_KEPT_TEXTS)(self._tokens)
        # The library asks for the attributes of its own wrapper, not for the class.
        wrapper = cast("TokenizerWrapper", _Wrapper(self, vocabulary))
        self.library = llguidance.LLTokenizer(wrapper, eos_token=list(vocabulary.end_ids), slices=_SLICES)
        self.written("a")  # a tokenizer may build something with its first text; no mask should wait for that

    def is_text(self, token_id: int) -> bool:
        """Whether this is the id of an ordinary token, which stands for some bytes."""
        return (
            token_id < len(self.token_bytes) and token_id not in self.special_ids and bool(self.token_bytes[token_id])
        )

    def written(self, text: str) -> list[int]:
        """Token ids of ordinary text, which spell it byte by byte and hold no control token."""
        # What is forced in one answer is forced in the next: keys of a schema, and what stands between them.
        return list(self._kept_tokens(text) if len(text) <= _KEPT_CHARS else self._tokens(text))

    def _tokens(self, text: str) -> tuple[int, ...]:
        token_ids = self._encoded(text)
        return tuple(self.library.greedy_tokenize(text) if token_ids is None else token_ids)

    def _encoded(self, text: str) -> list[int] | None:
        """What the model's tokenizer writes; None where it does not give the text back, or cannot say."""
        try:
            token_ids = None if self._encode is None else self._encode(text)
        except RequestError:
            return None
        if token_ids is None or b"".join([self.token_bytes[token_id] for token_id in token_ids]) != text.encode():
            return None
        return token_ids if self.special_ids.isdisjoint(token_ids) else None

    def spelled(self, part: bytes) -> list[int]:
        """Tokens that spell these bytes, which may end amid a character; where no token can, they spell less."""
        return self.library.tokenize_bytes(part)


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
