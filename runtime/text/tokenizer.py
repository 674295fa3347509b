"""Text <-> token ids of one package. Wraps the ``tokenizers`` library and knows each token's bytes.

Owns the rule that text from a client never becomes a control token: ``encode_guarded`` takes text in which
``SpecialTextGuard`` has marked such places. Knows no chat template, no request and no HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import tokenizers

from runtime.errors import PackageError, RequestError
from runtime.package.manifest import TOKENIZER_FILE, Package
from runtime.text.token_bound import token_bound
from runtime.text.token_bytes import token_bytes_table

# Unicode noncharacters: never assigned, never meant for interchange, untouched by every normalisation form.
GUARD_MARK = "\ufdd0"
_KEY_OPEN, _KEY_CLOSE = "\ufdd1", "\ufdd2"
_RESERVED = re.compile("[\ufdd0-\ufdd2]")


class Tokenizer:
    """One package's tokenizer. Safe to use from several threads: nothing changes after construction but a lazy twin.

    ``vocab_size`` is the number of ids the model's logits have, which may exceed the tokenizer's own.
    """

    def __init__(self, tokenizer_json: bytes, vocab_size: int | None = None) -> None:
        self._json = tokenizer_json
        self._tokenizer = _load(tokenizer_json)
        vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = vocab_size if vocab_size is not None else max(vocab.values(), default=-1) + 1
        decoder = msgspec.json.decode(tokenizer_json, type=_DecoderOnly).decoder
        self._bytes = token_bytes_table(decoder, vocab, max(self.vocab_size, max(vocab.values(), default=-1) + 1))
        document = msgspec.json.decode(tokenizer_json)
        self._bound = token_bound(document, max(map(len, self._bytes), default=0))
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {token_id: token.content for token_id, token in added.items() if token.special}
        self.special_ids = frozenset(self._special)
        self._special_pattern = _alternatives(self._special.values())
        self._twin: tokenizers.Tokenizer | None = None

    @classmethod
    def from_package(cls, package: Package) -> Tokenizer:
        """The tokenizer of a verified package. Raises PackageError when the file is not a usable tokenizer."""
        return cls(package.path(TOKENIZER_FILE).read_bytes(), package.manifest.shape.vocab_size)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of text in which control tokens' names become control tokens."""
        return _encode(self._tokenizer, text, add_special_tokens=add_special_tokens)

    def encode_plain(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of text from outside: a control token's name in it stays ordinary text."""
        if not self.holds_special_text(text):
            return self.encode(text, add_special_tokens=add_special_tokens)
        return _encode(self._plain_twin(), text, add_special_tokens=add_special_tokens)

    def encode_guarded(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of text whose client-made parts went through ``guard``; marked places become ordinary text."""
        if GUARD_MARK not in text:
            return self.encode(text, add_special_tokens=add_special_tokens)
        keys = {content: _key(token_id) for token_id, content in self._special.items()}
        own = self._special_pattern.sub(lambda match: keys[match[0]], text) if self._special_pattern else text
        return _encode(self._plain_twin(), self.unguarded(own), add_special_tokens=add_special_tokens)

    def guard(self, text: str) -> str:
        """``text`` with a mark inside every control token's name, so that it can no longer be read as one.

        Text without such a name is returned as it is, so ordinary requests keep their exact token ids.
        Raises RequestError when the text also uses the noncharacters that serve as marks.
        """
        pattern = self._special_pattern
        if pattern is None or pattern.search(text) is None:
            if GUARD_MARK in text:
                raise RequestError("the text holds the noncharacter U+FDD0, which is not meant for interchange")
            return text
        if _RESERVED.search(text):
            raise RequestError("the text holds noncharacters U+FDD0 to U+FDD2, which are not meant for interchange")
        return pattern.sub(lambda match: match[0][:1] + GUARD_MARK + match[0][1:], text)

    def unguarded(self, text: str) -> str:
        """Text without the marks of ``guard``."""
        return text.replace(GUARD_MARK, "")

    def fewest_tokens(self, text: str) -> int:
        """A number of tokens that the text surely has, without encoding it; 0 when its length tells nothing."""
        return self._bound.fewest_tokens(text)

    def holds_special_text(self, text: str) -> bool:
        """True when the text contains the name of a control token."""
        return self._special_pattern is not None and self._special_pattern.search(text) is not None

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of a whole sequence, by the library's own decoder."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def token_bytes(self, token_id: int) -> bytes:
        """Raw bytes of one token, possibly a part of a UTF-8 character; empty for an id that has no token."""
        return self._bytes[token_id] if 0 <= token_id < len(self._bytes) else b""

    def token_text(self, token_id: int) -> str:
        """Best-effort text of one token; incomplete characters show as U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", errors="replace")

    def token_id(self, token: str) -> int | None:
        """Id of a token by its name in the vocabulary."""
        found = self._tokenizer.token_to_id(token)
        return None if found is None else int(found)

    def token_name(self, token_id: int) -> str | None:
        """Name of a token in the vocabulary, as ``tokenizer.json`` spells it."""
        found = self._tokenizer.id_to_token(token_id)
        return None if found is None else str(found)

    def prepare(self) -> None:
        """Build now what the first text with a control token's name in it would otherwise wait for."""
        self._plain_twin()

    def _plain_twin(self) -> tokenizers.Tokenizer:
        """The same tokenizer whose control tokens have names that no text holds. Built when first needed."""
        if self._twin is None:
            self._twin = _rename_specials(self._json, self._special)
        return self._twin


class _DecoderOnly(msgspec.Struct):
    decoder: dict[str, Any] | None = None


def _load(tokenizer_json: bytes) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(tokenizer_json.decode("utf-8"))
    except Exception as error:
        # The library raises a bare Exception for every kind of bad file.
        version = tokenizers.__version__
        raise PackageError(f"{TOKENIZER_FILE} is not readable by tokenizers {version}: {error}") from error


def _encode(tokenizer: tokenizers.Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    # tokenizers 0.23's batch call releases the interpreter lock, the single call does not: a long prompt would stop
    # every other thread of the process for as long as it takes. Without offsets it is also faster.
    return list(tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)


def _key(token_id: int) -> str:
    return f"{_KEY_OPEN}{token_id}{_KEY_CLOSE}"


def _alternatives(contents: Iterable[str]) -> re.Pattern[str] | None:
    longest_first = sorted(contents, key=len, reverse=True)
    return re.compile("|".join(re.escape(content) for content in longest_first)) if longest_first else None


def _rename_specials(tokenizer_json: bytes, special: dict[int, str]) -> tokenizers.Tokenizer:
    document = msgspec.json.decode(tokenizer_json)
    names = {content: _key(token_id) for token_id, content in special.items()}
    for token in document["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    vocab = document["model"]["vocab"]
    if isinstance(vocab, dict):
        document["model"]["vocab"] = {names.get(token, token): token_id for token, token_id in vocab.items()}
    else:  # Unigram: [token, score] pairs, the id is the position
        document["model"]["vocab"] = [[names.get(token, token), score] for token, score in vocab]
    twin = _load(msgspec.json.encode(document))
    moved = [content for token_id, content in special.items() if twin.token_to_id(_key(token_id)) != token_id]
    if moved:
        raise PackageError(f"{TOKENIZER_FILE}: the control token {moved[0]!r} cannot be kept apart from ordinary text")
    return twin
