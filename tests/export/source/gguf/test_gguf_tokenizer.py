"""Tokenizers out of GGUF metadata: splits, special tokens, round trips, and SentencePiece's own ids."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer

from export.errors import SourceError, UnsupportedError
from export.source.gguf.tokenizer import text_files_from_gguf
from runtime.package.manifest import TOKENIZER_FILE, Package
from tests.paths import GOLDEN

SPM = GOLDEN / "spm.json"
CORPUS = (
    "Who won the world series in 2020?",
    "  leading, double  and trailing spaces  ",
    "def f(x: int) -> int:\n    return x ** 2\t# tab\r\n\n",
    "Straße, élan, ¿qué?, Ελλάδα, Сегодня",
    "東京の冬、今天下午三点、오늘 회의는",
    "emoji 🙂 🚲 👩‍👩‍👧‍👦 and \u0000 and \ufffd",
    "1234567890 3.14159 1,000,000",
)


def byte_alphabet() -> list[str]:
    """GPT-2's 256 printable stand-ins for bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(spare)) for byte in range(256)]


def metadata(pre: str, merges: list[str], **more: Any) -> dict[str, Any]:
    joined = [merge.replace(" ", "") for merge in merges]
    tokens = ["<|endoftext|>", "<|im_end|>", *byte_alphabet(), *joined]
    base = {"model": "gpt2", "pre": pre, "tokens": tokens, "merges": merges, "eos_token_id": 0}
    base["token_type"] = [3, 3] + [1] * (len(tokens) - 2)
    return {f"tokenizer.ggml.{key}": value for key, value in (base | more).items()}


def tokenizer_of(values: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(text_files_from_gguf("t.gguf", values).tokenizer_json)


DIGIT_MERGES = ["1 2", "12 3", "4 5", "Ġ a", "A B", "b c"]


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("smollm", "1234", ["1", "2", "3", "4"]),
        ("llama-bpe", "12345", ["123", "45"]),
        ("llama-bpe", "1234", ["123", "4"]),
        ("qwen2", "123", ["1", "2", "3"]),
        ("gpt-2", "1234", ["123", "4"]),
        ("tekken", "123", ["1", "2", "3"]),
        ("tekken", "ABbc", ["AB", "bc"]),  # capitals end before the small letters: A|Bbc would be one word elsewhere
        ("gpt-2", "x a", ["x", "Ġa"]),
        ("smollm", "<|im_end|>12", ["<|im_end|>", "1", "2"]),
    ],
)
def test_the_named_pattern_splits_text_before_merging(pre: str, text: str, expected: list[str]) -> None:
    assert tokenizer_of(metadata(pre, DIGIT_MERGES)).encode(text).tokens == expected


@pytest.mark.parametrize("pre", ["smollm", "llama-bpe", "gpt-2", "tekken"])
@pytest.mark.parametrize("text", CORPUS)
def test_any_text_comes_back(pre: str, text: str) -> None:
    tokenizer = tokenizer_of(metadata(pre, DIGIT_MERGES))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_qwen_composes_characters_first() -> None:
    tokenizer = tokenizer_of(metadata("qwen2", []))
    assert tokenizer.encode("e\u0301").ids == tokenizer.encode("\u00e9").ids


def test_a_begin_token_is_added_where_the_file_says_so() -> None:
    plain = metadata("smollm", [], bos_token_id=0)
    assert tokenizer_of(plain).encode("!").tokens == ["!"]
    assert tokenizer_of(plain | {"tokenizer.ggml.add_bos_token": True}).encode("!").tokens == ["<|endoftext|>", "!"]


def test_stop_tokens_are_eos_and_the_template_s_end_of_turn() -> None:
    template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    files = text_files_from_gguf("t.gguf", metadata("smollm", []) | {"tokenizer.chat_template": template})
    assert files.stop_token_ids == (0, 1)
    assert text_files_from_gguf("t.gguf", metadata("smollm", [])).stop_token_ids == (0,)
    assert files.special_tokens == {"eos_token": "<|endoftext|>"}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": "bert"}, UnsupportedError, "'bert' is not read; those read are gpt2 and llama"),
        ({"pre": "viking"}, UnsupportedError, "'viking' is not read; those read are dbrx"),
        ({"tokens": None}, SourceError, "tokens is missing"),
        ({"tokens": ["a", "a"]}, SourceError, "names a token twice"),
        ({"tokens": ["a", b"\xff"]}, SourceError, "other things than texts"),
        ({"merges": None}, SourceError, "merges is missing"),
        ({"merges": ["a b c"]}, SourceError, "not two tokens"),
        ({"merges": ["! nowhere"]}, SourceError, "contradictory"),
        ({"eos_token_id": 10**9}, SourceError, "eos_token_id is 1000000000"),
        ({"eos_token_id": -1}, SourceError, "eos_token_id is -1"),
    ],
)
def test_contradictions_are_one_clear_error(change: dict[str, Any], error: type[Exception], words: str) -> None:
    values = metadata("smollm", DIGIT_MERGES) | {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    with pytest.raises(error) as caught:
        text_files_from_gguf("t.gguf", values)
    assert words in str(caught.value)


def test_sentencepiece_vocabularies_give_sentencepiece_s_ids() -> None:
    golden = json.loads(SPM.read_text(encoding="utf-8"))
    keys = {f"tokenizer.ggml.{key}": golden[key] for key in ("tokens", "scores", "token_type")}
    keys |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.eos_token_id": 2}
    tokenizer = tokenizer_of(keys)
    for text, ids in golden["encoded"].items():
        assert tokenizer.encode(text).ids == ids, text
        assert tokenizer.decode(ids) == text


@pytest.mark.model
def test_the_default_model_s_tokenizer(default_package: Package) -> None:
    tokenizer = Tokenizer.from_str(default_package.read_text(TOKENIZER_FILE))
    assert tokenizer.get_vocab_size() == 49152
    assert tokenizer.encode("<|im_start|>user\nHi<|im_end|>").ids == [1, 4093, 198, 26843, 2]
    assert tokenizer.encode("in 2020").tokens == ["in", "Ġ", "2", "0", "2", "0"]
    for text in CORPUS:
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
