"""A conversation's next turn tokenizes only what is new, with the ids of the whole text; each owner's for itself."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime.text.tokenizer as tokenizer_module
from runtime.errors import RequestError
from runtime.text.known_pieces import LONG_PIECE_CHARS, KnownPieces, is_encoded_by_piece
from runtime.text.tokenizer import Tokenizer
from tests.api.programs import IM_END, IM_START, VOCAB_SIZE, tokenizer_json

START, END = "<|im_start|>", "<|im_end|>"
LONG = "a long text of many words. " * 20
GPT4 = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PREFIXING = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
SPLITTING = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "Split", "pattern": {"Regex": GPT4}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ],
}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
LLAMA = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ],
}


def made(**fields: Any) -> dict[str, Any]:
    """The scripted tokenizer with other fields, merges of a few pairs, and spaces as SentencePiece writes them."""
    document = {**msgspec.json.decode(tokenizer_json()), **fields}
    vocab = document["model"]["vocab"]
    free = max(vocab.values())
    pairs = (("Ġ", "a"), ("a", "b"), ("Ġa", "b"), ("▁", "a"), ("▁a", "b"), ("b", "b"))
    for token in ("▁", *("".join(pair) for pair in pairs)):
        if token not in vocab:
            free += 1
            vocab[token] = free
    document["model"] |= {"merges": [" ".join(pair) for pair in pairs], "fuse_unk": True, "unk_token": "b"}
    return document


def conversation(*messages: str) -> tuple[str, list[tuple[int, int]]]:
    """A rendered text and the spans of its marks."""
    text, spans = "", []
    for message in messages:
        for part in (START, message, END):
            if part in (START, END):
                spans.append((len(text), len(text) + len(part)))
            text += part
    return text, spans


class Counting:
    """Stands before a tokenizer's twin and notes the texts that it is given."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._twin = tokenizer._plain_twin()
        self.texts: list[str] = []
        tokenizer._twin = self  # type: ignore[assignment]

    def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> Any:
        self.texts += texts
        return self._twin.encode_batch_fast(texts, add_special_tokens=add_special_tokens)


FIELDS: dict[str, dict[str, Any]] = {
    "byte level": {},
    "prefix spaces": {"pre_tokenizer": PREFIXING},
    "split": {"pre_tokenizer": SPLITTING, "normalizer": {"type": "NFC"}},
    "metaspace": {"pre_tokenizer": METASPACE},
    "llama": {"pre_tokenizer": None, "normalizer": LLAMA},
}
MADE = {name: Tokenizer(msgspec.json.encode(made(**fields)), 400) for name, fields in FIELDS.items()}
PIECES = st.text(st.sampled_from([*"ab b\n 1'é\u0301▁", "你"]), max_size=12)


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=40)
@given(messages=st.lists(st.one_of(PIECES, st.sampled_from([START, END, "ab ab", " a"])), max_size=6))
def test_the_ids_are_those_of_the_whole_text(name: str, messages: list[str]) -> None:
    tokenizer = MADE[name]
    text, spans = conversation(*messages)
    whole = tokenizer.encode_spans(text, spans)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_module, "LONG_PIECE_CHARS", 2)
        assert [tokenizer.encode_spans(text, spans, owner="") for _ in range(2)] == [whole, whole]


def test_a_next_turn_encodes_only_its_new_text() -> None:
    tokenizer = Tokenizer(tokenizer_json(), VOCAB_SIZE)
    first, spans = conversation("hello", LONG)
    tokenizer.encode_spans(first, spans, owner="")
    twin = Counting(tokenizer)
    text, spans = conversation("hello", LONG, "short", LONG + "!")
    ids = tokenizer.encode_spans(text, spans, owner="")
    expected = [list(piece.encode()) for piece in ("hello", LONG, "short", LONG + "!")]
    assert ids == [token for piece in expected for token in (IM_START, *piece, IM_END)]
    assert [encoded for encoded in twin.texts if "long" in encoded] == [LONG + "!"]


def test_what_one_owner_sent_spares_no_other_s_time() -> None:
    tokenizer = Tokenizer(tokenizer_json(), VOCAB_SIZE)
    text, spans = conversation(LONG)
    twin = Counting(tokenizer)
    for owner in ("a", "b", "a", None, "b", None):
        tokenizer.encode_spans(text, spans, owner=owner)
    assert sum("long" in encoded for encoded in twin.texts) == 4  # a, b, and nobody twice


def test_forged_keys_and_names_stay_text() -> None:
    tokenizer = Tokenizer(tokenizer_json(), VOCAB_SIZE)
    text = LONG + END + f"\ufdd2{IM_END}"
    for _ in range(2):
        assert tokenizer.encode_spans(text, [], owner="") == list(text.encode())
        with pytest.raises(RequestError, match="noncharacter"):
            tokenizer.encode_spans(f"{LONG}\ufdd1{IM_END}\ufdd2", [], owner="")


def test_the_oldest_pieces_go_first_and_what_is_too_long_is_not_kept() -> None:
    known = KnownPieces(max_chars=10)
    known.keep("", "aaaa", [1])
    known.keep("", "bbbb", [2])
    known.keep("", "bbbb", [2])  # once more counts once
    assert known.find("", "aaaa") is not None  # asked for: now bbbb is the oldest
    known.keep("", "ccc", [3])
    assert [known.find("", piece) is not None for piece in ("aaaa", "bbbb", "ccc")] == [True, False, True]
    known.keep("", "d" * 11, [4])
    assert known.find("", "d" * 11) is None
    known.keep("", "eee", [5, 6])
    assert list(known.find("", "eee") or ()) == [5, 6]
    assert known.find("x", "eee") is None
    assert known.find("", "aaaa") is not None  # 4 + 3 + 3 characters fit


@pytest.mark.parametrize(
    "changes",
    [
        {"truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}},
        {"padding": {"strategy": {"Fixed": 4}}},
        {"pre_tokenizer": {**METASPACE, "prepend_scheme": "first"}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [PREFIXING, {**METASPACE, "prepend_scheme": "first"}]}},
        {"pre_tokenizer": {"type": "SomethingNew"}},
        *({"added_tokens": [{"content": "x", flag: True}]} for flag in ("lstrip", "rstrip", "single_word")),
        {"model": {"type": "BPE", "dropout": 0.1}},
    ],
)
def test_tokenizers_that_look_beyond_a_piece_remember_none(changes: dict[str, Any]) -> None:
    document = msgspec.json.decode(tokenizer_json())
    assert is_encoded_by_piece(document)
    assert not is_encoded_by_piece({**document, **changes})


def test_such_a_tokenizer_encodes_the_whole_text_each_time() -> None:
    first = {**METASPACE, "prepend_scheme": "first"}
    tokenizer = Tokenizer(msgspec.json.encode(made(pre_tokenizer=first)), 400)
    text, spans = conversation("ab" * LONG_PIECE_CHARS, "ab")
    whole = tokenizer.encode_spans(text, spans)
    twin = Counting(tokenizer)
    assert [tokenizer.encode_spans(text, spans, owner="") for _ in range(2)] == [whole, whole]
    assert len(twin.texts) == 2
