"""The bound on a text's tokens is never above what the tokenizer makes of it, and absent where text can vanish."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.package.manifest import Package
from runtime.text.token_bound import TokenBound, token_bound
from runtime.text.token_bytes import byte_alphabet
from runtime.text.tokenizer import Tokenizer
from tests.api.programs import VOCAB_SIZE, tokenizer_json

TOKENIZER = Tokenizer(tokenizer_json(), VOCAB_SIZE)
DOCUMENT: dict[str, Any] = msgspec.json.decode(tokenizer_json())
CHARACTERS = {byte: character for character, byte in byte_alphabet().items()}
BLANKS = [b" " * 12]
TEXTS = (
    st.text(max_size=200)
    | st.text(alphabet="ab1 9e\u0301\u00e9", max_size=400)
    | st.text(alphabet=" \t\n\x04\x1d=#-ab", max_size=400)
)


@given(TEXTS)
def test_the_bound_holds_for_bytes(text: str) -> None:
    assert TOKENIZER.fewest_tokens(text) <= len(TOKENIZER.encode(text))


@pytest.mark.model
def test_the_bound_holds_for_the_default_model(default_package: Package) -> None:
    tokenizer = Tokenizer.from_package(default_package)

    @given(TEXTS)
    def check(text: str) -> None:
        for longer in (text, text * 40):
            assert tokenizer.fewest_tokens(longer) <= len(tokenizer.encode(longer))

    check()
    assert tokenizer.fewest_tokens(" " * 81_000) == 1000  # a line feed and 80 spaces are its longest token
    assert tokenizer.fewest_tokens("9" * 81_000) == 81_000  # it cuts digits one by one
    assert tokenizer.fewest_tokens("word " * 1000) == 160  # and "ManagementPlaneProtection" is its longest word
    assert tokenizer.fewest_tokens("\x04" * 81_000) == 0  # a byte without a token vanishes
    assert len(tokenizer.encode("\x04" * 100)) == 0


def test_what_shrinks_or_swallows_text_is_known_or_gives_no_bound() -> None:
    assert token_bound(DOCUMENT, BLANKS) == TokenBound(12)
    assert token_bound({**DOCUMENT, "normalizer": {"type": "NFC"}}, BLANKS) == TokenBound(48)
    parts = [{"type": "NFC"}, {"type": "Prepend", "prepend": "x"}]
    assert token_bound({**DOCUMENT, "normalizer": {"type": "Sequence", "normalizers": parts}}, BLANKS) == TokenBound(48)
    swallowing = [{**DOCUMENT["added_tokens"][0], "rstrip": True}]
    removing = {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed"}
    unigram = {**DOCUMENT["model"], "type": "Unigram"}
    for change in (
        {"normalizer": {"type": "Strip"}},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}},
        {"added_tokens": swallowing},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [removing, DOCUMENT["pre_tokenizer"]]}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": None},
        {"model": unigram},
        {"truncation": {"max_length": 4}},
    ):
        assert token_bound({**DOCUMENT, **change}, BLANKS) == TokenBound(), change


def test_digits_and_words_are_bounded_by_the_tokens_with_most_of_them() -> None:
    tokens = [b"", b"\n" + b" " * 80, b" word", b"20", "\u00e9t\u00e9s!".encode()]
    bound = token_bound(DOCUMENT, tokens)
    assert bound == TokenBound(81, (), 2, 4)
    assert bound.fewest_tokens("word " * 100) == 100  # 400 letters
    assert bound.fewest_tokens("7" * 9) == 5
    assert bound.fewest_tokens(" " * 820 + "word") == 11  # 824 characters
    composed = token_bound({**DOCUMENT, "normalizer": {"type": "NFC"}}, tokens)
    assert composed == TokenBound(324, (), 2, 0)
    assert composed.fewest_tokens("e\u0301" * 100) == 1


def test_bytes_without_a_token_are_lost() -> None:
    def without(byte: int) -> dict[str, Any]:
        vocab = {token: number for token, number in DOCUMENT["model"]["vocab"].items() if token != CHARACTERS[byte]}
        return {**DOCUMENT, "model": {**DOCUMENT["model"], "vocab": vocab}}

    assert token_bound(without(4), BLANKS) == TokenBound(12, ("\x04",))
    assert token_bound(without(0xF1), BLANKS) == TokenBound(12)  # the bytes after it still make tokens
    assert token_bound(without(0x80), BLANKS) == TokenBound()
    assert TokenBound(12, ("\x04",)).fewest_tokens("a" * 13 + "\x04" * 1000) == 2


def test_byte_fallback_covers_everything() -> None:
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    document = {
        "normalizer": None,
        "pre_tokenizer": None,
        "model": {"type": "BPE", "byte_fallback": True, "vocab": vocab},
    }
    assert token_bound(document, [b" " * 5]) == TokenBound(5)
