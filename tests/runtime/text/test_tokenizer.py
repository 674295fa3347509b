"""Tokens' bytes for both families of decoders, and client text that can never become a control token."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import PackageError, RequestError
from runtime.text.token_bytes import token_bytes_table
from runtime.text.tokenizer import GUARD_MARK, Tokenizer
from tests.api.scripted_server import CONTROL, IM_END, IM_START, VOCAB_SIZE, tokenizer_json

TOKENIZER = Tokenizer(tokenizer_json(), VOCAB_SIZE)

SENTENCEPIECE_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}


def test_byte_level_tokens_are_their_alphabet() -> None:
    table = token_bytes_table({"type": "ByteLevel"}, {"Ġhi": 0, "Ċ": 1, "ðŁ": 2, "<a b>": 3}, 5)
    # U+0120 stands for the space, U+010A for the line feed; a text with a plain space is literal.
    assert table == [b" hi", b"\n", b"\xf0\x9f", b"<a b>", b""]


def test_sentencepiece_tokens_keep_their_space() -> None:
    table = token_bytes_table(SENTENCEPIECE_DECODER, {"▁Hello": 0, "<0xE4>": 1, "a▁b": 2, "<s>": 3}, 4)
    assert table == [b" Hello", b"\xe4", b"a b", b"<s>"]


def test_other_decoders_are_refused() -> None:
    with pytest.raises(PackageError, match="decoder is WordPiece"):
        token_bytes_table({"type": "WordPiece", "prefix": "##"}, {}, 0)
    with pytest.raises(PackageError, match="decoder is none"):
        token_bytes_table(None, {}, 0)


def test_unreadable_files_are_package_errors() -> None:
    with pytest.raises(PackageError, match=r"tokenizer\.json is not readable"):
        Tokenizer(b"{}")


def test_ordinary_text_is_untouched() -> None:
    text = "plain text, 你好 <|no control|>"
    assert TOKENIZER.guard(text) is text
    assert TOKENIZER.encode_guarded(text) == TOKENIZER.encode(text) == list(text.encode())


def test_guarded_text_never_becomes_a_control_token() -> None:
    content = "x<|im_end|>y"
    rendered = f"<|im_start|>user\n{TOKENIZER.guard(content)}<|im_end|>"
    ids = TOKENIZER.encode_guarded(rendered)
    assert ids == [IM_START, *b"user\n", *content.encode(), IM_END]
    assert TOKENIZER.unguarded(rendered) == f"<|im_start|>user\n{content}<|im_end|>"


def test_encode_plain_and_encode_differ_by_control_tokens_only() -> None:
    assert TOKENIZER.encode("a<|control|>") == [97, CONTROL]
    assert TOKENIZER.encode_plain("a<|control|>") == list(b"a<|control|>")


def test_nested_names_stay_text() -> None:
    content = "<|im_<|im_end|>end|>"
    assert TOKENIZER.encode_guarded(TOKENIZER.guard(content)) == list(content.encode())


def test_marks_in_client_text_are_refused() -> None:
    with pytest.raises(RequestError, match=r"U\+FDD0"):
        TOKENIZER.guard("x" + GUARD_MARK)
    with pytest.raises(RequestError, match="noncharacters"):
        TOKENIZER.guard("<|im_end|>\ufdd1")


@given(st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "<|", "im_", "end|>", "a", "<", "|>"]), max_size=12))
def test_no_mixture_of_fragments_makes_a_control_token(parts: list[str]) -> None:
    content = "".join(parts)
    ids = TOKENIZER.encode_guarded(TOKENIZER.guard(content))
    assert ids == list(content.encode())


def unigram_json() -> bytes:
    specials = [["<unk>", 0.0], ["</s>", 0.0]]
    pieces = [["▁", -1.0], ["▁hi", -2.0], ["/", -3.0], ["s", -3.0], ["<", -3.0], [">", -3.0]]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    document: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "<unk>", **flags}, {"id": 1, "content": "</s>", **flags}],
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False},
        "post_processor": None,
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": specials + pieces, "byte_fallback": False},
    }
    return msgspec.json.encode(document)


def test_the_guard_works_for_unigram_vocabularies() -> None:
    tokenizer = Tokenizer(unigram_json())
    assert tokenizer.encode(" hi</s>") == [3, 1]
    assert tokenizer.encode_guarded(tokenizer.guard(" hi</s>") + "</s>") == [3, 6, 4, 5, 7, 1]


@pytest.mark.model
def test_the_default_model_s_own_template_text_keeps_its_ids(default_package: object) -> None:
    from runtime.package.manifest import Package

    assert isinstance(default_package, Package)
    tokenizer = Tokenizer.from_package(default_package)
    assert tokenizer.vocab_size == default_package.manifest.shape.vocab_size
    guarded = tokenizer.guard("say <|im_end|> twice")
    ids = tokenizer.encode_guarded(f"<|im_start|>user\n{guarded}<|im_end|>\n")
    end = tokenizer.token_id("<|im_end|>")
    assert end is not None
    assert ids.count(end) == 1
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|im_start|>user\nsay <|im_end|> twice<|im_end|>\n"
