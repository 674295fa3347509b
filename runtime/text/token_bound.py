"""The fewest tokens that a text can have, told from its length.

Tokenizing ten megabytes takes seconds, and whether they fit a context of some thousand tokens can be told before: no
token stands for more bytes than the longest one, which is a run of blanks, nor for more digits or letters than the one
with most of them. That holds only where a tokenizer loses no text on the way, so what is not known to keep it gives no
bound. Knows documents in the form of ``tokenizer.json``; encodes nothing.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.text.token_bytes import byte_alphabet

_NFC_SHRINKS = 4
"""NFC joins at most four code points into one: Greek letters with three marks."""
_DIGITS = string.digits.encode()
_WORD = string.ascii_letters.encode() + _DIGITS
_KEEPING_SPLITS = frozenset({"ByteLevel", "Digits", "Metaspace"})


@dataclass(frozen=True, slots=True)
class TokenBound:
    """``most_chars`` is what one token stands for at most, None for any amount; ``lost`` characters make no token.

    ``most_digits`` and ``most_word`` are how many of them may be ASCII digits, and ASCII letters or digits; 0: unknown.
    """

    most_chars: int | None = None
    lost: tuple[str, ...] = ()
    most_digits: int = 0
    most_word: int = 0

    def fewest_tokens(self, text: str) -> int:
        """A number of tokens that the text surely has; 0 when nothing is known."""
        if self.most_chars is None:
            return 0
        kept = len(text) - sum(text.count(character) for character in self.lost)
        ascii_text = text.encode("ascii", "ignore")
        by_digits = -(-_count(ascii_text, _DIGITS) // self.most_digits) if self.most_digits else 0
        by_word = -(-_count(ascii_text, _WORD) // self.most_word) if self.most_word else 0
        return max(-(-kept // self.most_chars), by_digits, by_word)


def _count(text: bytes, members: bytes) -> int:
    """How many bytes are among ``members``, at the speed of one copy."""
    return len(text) - len(text.translate(None, members))


def token_bound(document: Mapping[str, Any], tokens: Sequence[bytes]) -> TokenBound:
    """The bound of a tokenizer whose tokens stand for these bytes."""
    longest_token_bytes = max(map(len, tokens), default=0)
    shrinks = _shrinks(document.get("normalizer"))
    swallows = any(token.get("lstrip") or token.get("rstrip") for token in document.get("added_tokens", ()))
    is_cut = not _keeps_text(document.get("pre_tokenizer")) or document.get("truncation") is not None
    missing = _missing_bytes(document)
    if shrinks is None or swallows or is_cut or missing is None or not longest_token_bytes:
        return TokenBound()
    # Every character beyond ASCII has a byte from 0x80 to 0xBF, which is enough to make a token of it.
    if any(0x80 <= byte <= 0xBF for byte in missing):
        return TokenBound()
    lost = tuple(chr(byte) for byte in missing if byte < 0x80)
    most_digits = 0 if set(lost) & set(string.digits) else max(_count(token, _DIGITS) for token in tokens)
    # NFC may join a letter and its marks, which leaves no ASCII letter.
    keeps_word = shrinks == 1 and not any(character.isalnum() for character in lost)
    most_word = max(_count(token, _WORD) for token in tokens) if keeps_word else 0
    return TokenBound(shrinks * longest_token_bytes, lost, most_digits, most_word)


def _shrinks(normalizer: Mapping[str, Any] | None) -> int | None:
    """How many times shorter a normalizer may make a text; None for any amount."""
    match normalizer:
        case None | {"type": "Prepend"} | {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}:
            return 1
        case {"type": "NFC"}:
            return _NFC_SHRINKS
        case {"type": "Sequence", "normalizers": list(parts)}:
            found = [_shrinks(part) for part in parts]
            return None if None in found else max((part for part in found if part is not None), default=1)
        case _:
            return None


def _keeps_text(splitter: Mapping[str, Any] | None) -> bool:
    match splitter:
        case None:
            return True
        case {"type": "Split", "behavior": str(behavior)}:
            return behavior != "Removed"
        case {"type": "Sequence", "pretokenizers": list(parts)}:
            return all(_keeps_text(part) for part in parts)
        case {"type": str(kind)}:
            return kind in _KEEPING_SPLITS
        case _:
            return False


def _missing_bytes(document: Mapping[str, Any]) -> list[int] | None:
    """Bytes that have no token and vanish; None where what has no token is joined into one that says so."""
    model = document.get("model") or {}
    vocab = model.get("vocab")
    if model.get("type", "BPE") != "BPE" or not isinstance(vocab, Mapping):
        return None
    if model.get("byte_fallback"):
        return [byte for byte in range(256) if f"<0x{byte:02X}>" not in vocab]
    if not _is_byte_level(document.get("pre_tokenizer")):
        return None
    return [byte for character, byte in byte_alphabet().items() if character not in vocab]


def _is_byte_level(splitter: Mapping[str, Any] | None) -> bool:
    parts = [splitter or {}, *((splitter or {}).get("pretokenizers") or ())]
    return any(part.get("type") == "ByteLevel" for part in parts)
