"""Token ids of long pieces of text, kept so that a conversation's next turn has only its new text tokenized.

A piece is what stands between two control tokens, a message as a rule. Owns the memory and its bound, and the rule of
which tokenizers give a piece the same ids whatever stands beside it. Knows no request and encodes nothing itself.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

LONG_PIECE_CHARS = 256
"""Characters from which on a piece is kept: shorter ones are encoded sooner than it takes to find a few of them."""

_MAX_CHARS = 4 * 2**20
_PLACELESS = frozenset(
    ("BertPreTokenizer", "ByteLevel", "Digits", "Punctuation", "Split", "Whitespace", "WhitespaceSplit")
)
"""Pre-tokenizers of the library that look at one piece at a time, wherever it stands."""


class KnownPieces:
    """The ids of pieces by owner and text, the ones asked for last. Safe to use from several threads.

    What one owner has had encoded no other one finds, so that nobody learns another's text from the time an answer
    takes. ``max_chars`` bounds the characters of all pieces together.
    """

    def __init__(self, max_chars: int = _MAX_CHARS) -> None:
        self._max_chars = max_chars
        self._num_chars = 0
        self._ids: OrderedDict[tuple[str, str], array[int]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, owner: str, piece: str) -> Sequence[int] | None:
        """The ids of a piece; None if it is not known."""
        with self._lock:
            ids = self._ids.get((owner, piece))
            if ids is not None:
                self._ids.move_to_end((owner, piece))
            return ids

    def keep(self, owner: str, piece: str, ids: Sequence[int]) -> None:
        """Note the ids of a piece, in place of those that nobody has asked for the longest."""
        if len(piece) > self._max_chars:
            return
        with self._lock:
            if (owner, piece) not in self._ids:
                self._num_chars += len(piece)
            self._ids[owner, piece] = array("I", ids)
            self._ids.move_to_end((owner, piece))
            while self._num_chars > self._max_chars:
                (_, oldest), _ = self._ids.popitem(last=False)
                self._num_chars -= len(oldest)


def is_encoded_by_piece(document: Mapping[str, Any]) -> bool:
    """Whether the tokenizer of a ``tokenizer.json`` gives text between two control tokens the same ids by itself.

    Not so, or not known to be, where a whole text is cut or padded, where an added token takes the spaces beside it
    along or depends on its neighbours, where the first piece of a text is treated apart, or merges are left to chance.
    """
    if document.get("truncation") or document.get("padding") or document["model"].get("dropout"):
        return False
    flags = ("lstrip", "rstrip", "single_word")
    if any(token.get(flag) for token in document.get("added_tokens") or () for flag in flags):
        return False
    return _is_placeless(document.get("pre_tokenizer"))


def _is_placeless(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    if pre_tokenizer is None:
        return True
    if pre_tokenizer["type"] == "Sequence":
        return all(_is_placeless(part) for part in pre_tokenizer["pretokenizers"])
    if pre_tokenizer["type"] == "Metaspace":
        return pre_tokenizer.get("prepend_scheme") in ("always", "never")
    return pre_tokenizer["type"] in _PLACELESS
