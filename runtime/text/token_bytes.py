"""The bytes that each token stands for, read from a tokenizer's decoder. Text is then their UTF-8, whoever asks.

Owns the two families of decoders that language models use: byte-level (GPT-2's printable alphabet for bytes) and
SentencePiece-like (a visible space, ``<0x0A>`` for single bytes). Because a token's bytes do not depend on its
neighbours, text can be built one token at a time and never differs from the text of the whole. Knows no requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from runtime.errors import PackageError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SENTENCEPIECE_STEPS = frozenset({"Replace", "Metaspace", "ByteFallback", "Fuse", "Strip"})


def token_bytes_table(decoder: Mapping[str, Any] | None, vocab: Mapping[str, int], size: int) -> list[bytes]:
    """Bytes of the token ids 0..size-1; ids that the vocabulary does not hold are empty.

    ``decoder`` is the ``decoder`` object of a ``tokenizer.json``. A ``Strip`` step, which removes the space before a
    text's first word, is left out on purpose: what the model generates continues a prompt.
    Raises PackageError for a decoder whose tokens have no bytes of their own, such as WordPiece.
    """
    to_bytes = _conversion(_steps(decoder))
    table = [b""] * size
    for token, token_id in vocab.items():
        if token_id < size:
            table[token_id] = to_bytes(token)
    return table


def byte_alphabet() -> dict[str, int]:
    """The printable character -> byte map of byte-level vocabularies, as GPT-2's ``bytes_to_unicode`` defines it.

    Printable bytes stand for themselves; the others take the code points from 256 upwards, in order.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    shifted = [byte for byte in range(256) if byte not in set(printable)]
    alphabet.update({chr(256 + position): byte for position, byte in enumerate(shifted)})
    return alphabet


def _steps(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        return []
    return list(decoder["decoders"]) if decoder["type"] == "Sequence" else [decoder]


def _conversion(steps: list[Mapping[str, Any]]) -> Callable[[str], bytes]:
    kinds = {str(step["type"]) for step in steps}
    if "ByteLevel" in kinds:
        return _byte_level()
    if kinds and kinds <= _SENTENCEPIECE_STEPS:
        return _sentencepiece(steps, has_byte_tokens="ByteFallback" in kinds)
    given = ", ".join(sorted(kinds)) or "none"
    raise PackageError(f"the tokenizer's decoder is {given}; supported are ByteLevel and SentencePiece-like sequences")


def _byte_level() -> Callable[[str], bytes]:
    alphabet = byte_alphabet()

    def convert(token: str) -> bytes:
        try:
            return bytes([alphabet[character] for character in token])
        except KeyError:  # an added token is literal text, which may hold a plain space
            return token.encode()

    return convert


def _sentencepiece(steps: list[Mapping[str, Any]], *, has_byte_tokens: bool) -> Callable[[str], bytes]:
    replacements = [_replacement(step) for step in steps if step["type"] in {"Replace", "Metaspace"}]

    def convert(token: str) -> bytes:
        if has_byte_tokens and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        for old, new in replacements:
            token = token.replace(old, new)
        return token.encode()

    return convert


def _replacement(step: Mapping[str, Any]) -> tuple[str, str]:
    if step["type"] == "Metaspace":
        return str(step["replacement"]), " "
    pattern = step["pattern"]
    if "String" not in pattern:
        raise PackageError("the tokenizer's decoder replaces by a regular expression; only plain strings are supported")
    return str(pattern["String"]), str(step["content"])
