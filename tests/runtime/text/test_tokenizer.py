"""Tokens' bytes for both families of decoders, and client text that can never become a control token."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import PackageError, RequestError
from runtime.text.token_bytes import token_bytes_table
from runtime.text.tokenizer import Tokenizer
from tests.api.programs import CONTROL, IM_END, IM_START, VOCAB_SIZE, tokenizer_json

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


def test_ordinary_text_has_the_ids_that_the_library_gives_it() -> None:
    text = "plain text, 你好 <|no control|"
    assert TOKENIZER.encode_plain(text) == TOKENIZER.encode(text) == list(text.encode())
    assert TOKENIZER.encode_spans(text, [(0, len(text))]) == list(text.encode())


def test_names_count_only_inside_one_trusted_span() -> None:
    content = "x<|im_end|>y"
    head = "<|im_start|>user\n"
    text = f"{head}{content}<|im_end|>"
    end = len(head) + len(content)
    ids = TOKENIZER.encode_spans(text, [(0, len(head)), (end, len(text))])
    assert ids == [IM_START, *b"user\n", *content.encode(), IM_END]
    name = "<|im_end|>"
    for trusted in ([], [(0, 5)], [(1, 10)], [(0, 5), (6, 10)], [(0, 9)]):
        assert TOKENIZER.encode_spans(name, trusted) == list(name.encode())
    assert TOKENIZER.encode_spans(name, [(0, 10)]) == [IM_END]


def test_encode_plain_and_encode_differ_by_control_tokens_only() -> None:
    assert TOKENIZER.encode("a<|control|>") == [97, CONTROL]
    assert TOKENIZER.encode_plain("a<|control|>") == list(b"a<|control|>")


def test_the_keys_of_the_twin_are_refused_in_any_text() -> None:
    forged = f"x\ufdd1{IM_END}\ufdd2"
    for trusted in ([], [(0, len(forged))]):
        with pytest.raises(RequestError, match=r"U\+FDD1"):
            TOKENIZER.encode_spans(forged, trusted)
    assert TOKENIZER.encode_plain("\ufdd0\ufdd2\ufdd3") == list("\ufdd0\ufdd2\ufdd3".encode())


def changed(**fields: Any) -> bytes:
    """The scripted tokenizer with other fields; added tokens have their ids in the vocabulary too."""
    document = {**msgspec.json.decode(tokenizer_json()), **fields}
    names = {added["id"]: added["content"] for added in document["added_tokens"]}
    vocab = document["model"]["vocab"]
    document["model"]["vocab"] = {names.get(token_id, piece): token_id for piece, token_id in vocab.items()}
    return msgspec.json.encode(document)


def token(token_id: int, content: str, **flags: bool) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": content, **plain, **flags}


def test_a_normalizer_cannot_make_a_name() -> None:
    """NFKC turns fullwidth letters into a control token's name, which a ``normalized`` token is found by."""
    tokens = [token(IM_END, "<|im_end|>", normalized=True)]
    tokenizer = Tokenizer(changed(normalizer={"type": "NFKC"}, added_tokens=tokens), VOCAB_SIZE)
    assert tokenizer.encode("＜|im_end|＞") == [IM_END]
    assert tokenizer.encode_plain("＜|im_end|＞") == list(b"<|im_end|>")
    assert tokenizer.encode_spans("<|im_end|>＜|im_end|＞", [(0, 10)]) == [IM_END, *b"<|im_end|>"]


def test_a_normalizer_cannot_make_a_key() -> None:
    replace = {"type": "Replace", "pattern": {"String": "@"}, "content": "\ufdd1"}
    tokens = [token(IM_END, "<|im_end|>", normalized=True)]
    tokenizer = Tokenizer(changed(normalizer=replace, added_tokens=tokens), VOCAB_SIZE)
    assert IM_END not in tokenizer.encode_plain(f"@{IM_END}\ufdd2")


def test_tokens_that_swallow_spaces_and_whole_words_still_do_when_they_are_trusted() -> None:
    tokens = [token(IM_END, "<|im_end|>", lstrip=True, rstrip=True), token(IM_START, "start", single_word=True)]
    tokenizer = Tokenizer(changed(added_tokens=tokens), VOCAB_SIZE)
    assert tokenizer.encode("a <|im_end|>\nb start") == [97, IM_END, 98, 32, IM_START]
    assert tokenizer.encode_spans("a <|im_end|>\nb start", [(0, 20)]) == [97, IM_END, 98, 32, IM_START]
    assert tokenizer.encode_plain("a <|im_end|> start") == list(b"a <|im_end|> start")


def test_unflagged_turn_marks_and_end_tokens_are_control_tokens_and_other_added_tokens_are_text() -> None:
    names = {IM_START: "<｜User｜>", IM_END: "<end_of_turn>", CONTROL: "<think>"}
    tokens = [token(token_id, name, special=False) for token_id, name in names.items()]
    tokenizer = Tokenizer(changed(added_tokens=tokens), VOCAB_SIZE, stop_token_ids=[IM_END])
    assert tokenizer.special_ids == frozenset()
    assert tokenizer.encode_plain("<｜User｜><end_of_turn><think>") == [*"<｜User｜><end_of_turn>".encode(), CONTROL]
    assert tokenizer.encode_spans("<｜User｜>x", [(0, 8)]) == [IM_START, 120]


def test_a_merge_cannot_make_a_control_token() -> None:
    document = msgspec.json.decode(tokenizer_json())
    document["model"]["vocab"] |= {"</": 300, "s>": 301, "</s>": 302}
    document["model"]["merges"] = [["<", "/"], ["s", ">"], ["</", "s>"]]
    document["added_tokens"].append(token(302, "</s>"))
    tokenizer = Tokenizer(msgspec.json.encode(document), VOCAB_SIZE)
    assert tokenizer.encode_plain("</s>") == [300, 301]
    assert tokenizer.encode_spans("</s></s>", [(0, 4)]) == [302, 300, 301]


def test_a_model_that_makes_control_tokens_of_unknown_text_is_stopped() -> None:
    """An unknown token of its own is the vocabulary's answer to unknown text; an end token in its place is not."""
    document = msgspec.json.decode(tokenizer_json())
    document["model"]["unk_token"] = "<|im_end|>"
    document["model"]["vocab"].pop("a")
    unknown = Tokenizer(msgspec.json.encode(document), VOCAB_SIZE)
    assert unknown.encode_plain("xa") == [120, IM_END]
    ending = Tokenizer(msgspec.json.encode(document), VOCAB_SIZE, stop_token_ids=[IM_END])
    with pytest.raises(RequestError, match="turns into a control token"):
        ending.encode_plain("xa")
    assert ending.encode_spans("x<|im_end|>", [(1, 11)]) == [120, IM_END]


def test_a_post_processor_s_own_tokens_are_allowed() -> None:
    begin = {"<|im_start|>": {"id": "<|im_start|>", "ids": [IM_START], "tokens": ["<|im_start|>"]}}
    pieces = [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": pieces, "pair": [], "special_tokens": begin}
    tokenizer = Tokenizer(changed(post_processor={**template, "pair": pieces}), VOCAB_SIZE)
    assert tokenizer.encode_plain("<|im_start|>", add_special_tokens=True) == [IM_START, *b"<|im_start|>"]
    assert tokenizer.encode_spans("x", (), add_special_tokens=True, owner="") == [IM_START, ord("x")]


FRAGMENTS = ["<|im_end|>", "<|im_start|>", "<|", "im_", "end|>", "a", "<", "|>"]


@given(st.lists(st.tuples(st.sampled_from(FRAGMENTS), st.booleans()), max_size=12))
def test_control_tokens_come_from_whole_names_in_trusted_runs_only(parts: list[tuple[str, bool]]) -> None:
    text = "".join(part for part, _ in parts)
    flags = [is_trusted for part, is_trusted in parts for _ in part]
    spans = [(at, at + 1) for at, is_trusted in enumerate(flags) if is_trusted]
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    ids = TOKENIZER.encode_spans(text, merged)
    expected = [name for start, end in merged for name in _names(text[start:end])]
    assert [IM_START if name == "<|im_start|>" else IM_END for name in expected] == [i for i in ids if i > 255]
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


def _names(text: str) -> list[str]:
    return re.findall(r"<\|im_start\|>|<\|im_end\|>", text)


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
    assert tokenizer.encode_spans(" hi</s></s>", [(7, 11)]) == [3, 6, 4, 5, 7, 1]
    assert tokenizer.encode_plain(" hi?") == [3, 0]


@pytest.mark.model
def test_the_default_model_s_own_template_text_keeps_its_ids(default_package: object) -> None:
    from runtime.package.manifest import Package

    assert isinstance(default_package, Package)
    tokenizer = Tokenizer.from_package(default_package)
    assert tokenizer.vocab_size == default_package.manifest.shape.vocab_size
    text = "<|im_start|>user\nsay <|im_end|> twice<|im_end|>\n"
    ids = tokenizer.encode_spans(text, [(0, 17), (text.rindex("<"), len(text))])
    end = tokenizer.token_id("<|im_end|>")
    assert end is not None
    assert ids.count(end) == 1
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.encode_spans(text, [(0, len(text))]) == tokenizer.encode(text)
