"""GGUF metadata -> the ``tokenizers`` library's JSON, chat template and stop tokens.

Knows the ``tokenizer.*`` keys. Byte-level vocabularies (``gpt2``) come with their merges and the name of the pattern
that splits text before merging; the patterns are those of llama.cpp (src/llama-vocab.cpp), written in the syntax of
``tokenizers``. Reads no tensors.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer

from export.checkpoint.checkpoint import TextFiles
from export.checkpoint.stop_tokens import end_of_turn_ids
from export.errors import SourceError, UnsupportedError
from export.source.gguf.spm_tokenizer import begin_with, flag, spm_tokenizer_json

_CONTROL, _USER_DEFINED = 3, 4
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> list[dict[str, Any]]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [split, _byte_level(use_regex=False)]


_DIGITS_THEN_GPT2 = [{"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True)]
_PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "dbrx": _split(_LLAMA3),
    "gpt-2": [_byte_level(use_regex=True)],
    "gpt2": [_byte_level(use_regex=True)],
    "llama-bpe": _split(_LLAMA3),
    "llama3": _split(_LLAMA3),
    "qwen2": _split(_QWEN2),
    "refact": _DIGITS_THEN_GPT2,
    "smaug-bpe": _split(_LLAMA3),
    "smollm": _DIGITS_THEN_GPT2,
    "starcoder": _DIGITS_THEN_GPT2,
    "tekken": _split(_TEKKEN),
}
_WHOLE_WORDS_FIRST = frozenset({"llama-bpe", "llama3", "tekken", "smaug-bpe"})
_BEGIN_BY_DEFAULT = frozenset({"llama-bpe", "llama3", "tekken"})
_NFC = frozenset({"qwen2"})


def text_files_from_gguf(name: str, metadata: dict[str, Any]) -> TextFiles:
    """The text side of a file. Raises SourceError for contradictions, UnsupportedError for unknown tokenizers."""
    tokens = _tokens(name, metadata)
    special = {
        f"{word}_token": tokens[index]
        for word, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if (index := _token_id(name, metadata, f"{key}_token_id", len(tokens))) is not None
    }
    added, model = _added_tokens(name, metadata, tokens), metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        data = _byte_level_json(name, metadata, tokens, added)
    elif model == "llama":
        data = spm_tokenizer_json(name, metadata, tokens, added)
    else:
        raise UnsupportedError(f"{name}: tokenizer model {model!r:.200} is not read; those read are gpt2 and llama")
    text = json.dumps(data, ensure_ascii=False)
    _check_loads(name, text, len(tokens))
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise SourceError(f"{name}: tokenizer.chat_template is not text; the file is damaged")
    return TextFiles(
        tokenizer_json=text,
        chat_template=template,
        special_tokens=special,
        stop_token_ids=_stop_token_ids(name, metadata, tokens, template),
    )


def _tokens(name: str, metadata: dict[str, Any]) -> list[str]:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise SourceError(f"{name}: tokenizer.ggml.tokens is missing or holds other things than texts")
    if len(set(tokens)) != len(tokens):
        raise SourceError(f"{name}: tokenizer.ggml.tokens names a token twice")
    return tokens


def _token_types(name: str, metadata: dict[str, Any], num_tokens: int) -> list[int]:
    types = metadata.get("tokenizer.ggml.token_type")
    if types is None:
        return [1] * num_tokens
    if not isinstance(types, list) or len(types) != num_tokens or not all(type(kind) is int for kind in types):
        raise SourceError(f"{name}: tokenizer.ggml.token_type is not a number for each of the {num_tokens} tokens")
    return types


def _added_tokens(name: str, metadata: dict[str, Any], tokens: list[str]) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": index, "content": tokens[index], **flags, "special": kind == _CONTROL}
        for index, kind in enumerate(_token_types(name, metadata, len(tokens)))
        if kind in {_CONTROL, _USER_DEFINED}
    ]


def _byte_level_json(
    name: str, metadata: dict[str, Any], tokens: list[str], added_tokens: list[dict[str, Any]]
) -> dict[str, Any]:
    pre = metadata.get("tokenizer.ggml.pre", "gpt-2")
    if not isinstance(pre, str) or pre not in _PRE_TOKENIZERS:
        raise UnsupportedError(
            f"{name}: pre-tokenizer {pre!r:.200} is not read; those read are {', '.join(sorted(_PRE_TOKENIZERS))}"
        )
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise SourceError(f"{name}: tokenizer.ggml.merges is missing; the file is incomplete")
    pairs = [merge.split(" ") if isinstance(merge, str) else [] for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise SourceError(f"{name}: tokenizer.ggml.merges holds an entry that is not two tokens; the file is damaged")
    bos = _token_id(name, metadata, "bos_token_id", len(tokens))
    add_bos = flag(name, metadata, "add_bos_token", default=pre in _BEGIN_BY_DEFAULT)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": {"type": "NFC"} if pre in _NFC else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _PRE_TOKENIZERS[pre]},
        "post_processor": begin_with(tokens[bos], bos) if add_bos and bos is not None else None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre in _WHOLE_WORDS_FIRST,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": pairs,
        },
    }


def _check_loads(name: str, text: str, num_tokens: int) -> None:
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more exact
        raise SourceError(f"{name}: its tokenizer is contradictory ({error})") from error
    if tokenizer.get_vocab_size() != num_tokens:
        raise SourceError(f"{name}: the tokenizer has {tokenizer.get_vocab_size()} tokens, the file lists {num_tokens}")


def _token_id(name: str, metadata: dict[str, Any], key: str, num_tokens: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < num_tokens:
        raise SourceError(f"{name}: tokenizer.ggml.{key} is {value!r:.200}, the file lists {num_tokens} tokens")
    return value


def _stop_token_ids(name: str, metadata: dict[str, Any], tokens: list[str], template: str | None) -> tuple[int, ...]:
    """``eos``, ``eot`` and each known end-of-turn control token that the chat template writes."""
    ids = [_token_id(name, metadata, f"{key}_token_id", len(tokens)) for key in ("eos", "eot", "eom")]
    types = _token_types(name, metadata, len(tokens))
    ids += end_of_turn_ids(template, {text: i for i, text in enumerate(tokens) if types[i] == _CONTROL})
    return tuple(sorted({index for index in ids if index is not None}))
