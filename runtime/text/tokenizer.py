"""Text <-> token ids of one package. Wraps the ``tokenizers`` library and knows each token's bytes.

Owns the rule that only the server's own words become control tokens. The library would find a control token's name
anywhere, so text is encoded by a *twin* of the tokenizer, whose control tokens are called by keys instead, and a key is
written only where a name lies wholly inside a trusted span. The keys hold a noncharacter that no text may hold. Knows
no chat template, no request and no HTTP.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import tokenizers

from runtime.constraint.vocabulary import Vocabulary
from runtime.errors import PackageError, RequestError
from runtime.package.limits import MAX_TOKENIZER_BYTES, MAX_VOCAB_SIZE, decode_document
from runtime.package.manifest import TOKENIZER_FILE, Package
from runtime.text.known_pieces import LONG_PIECE_CHARS, KnownPieces, is_encoded_by_piece
from runtime.text.token_bound import token_bound
from runtime.text.token_bytes import token_bytes_table

# Unicode noncharacters: never assigned, never meant for interchange, untouched by every normalisation form.
_KEY_OPEN, _KEY_CLOSE = "\ufdd1", "\ufdd2"
_KEYS = re.compile(f"({_KEY_OPEN}[0-9]+{_KEY_CLOSE})")
# Published tokenizers leave some turn marks unflagged (DeepSeek's distilled models: ``<｜User｜>``).
_CONTROL_FORM = re.compile(r"<[|｜].+[|｜]>")


class Tokenizer:
    """One package's tokenizer. Safe to use from several threads: what changes after construction is a lazy twin, and
    which pieces of text it remembers.

    ``vocab_size`` is the number of ids the model's logits have, which may exceed the tokenizer's own.
    """

    def __init__(
        self, tokenizer_json: bytes, vocab_size: int | None = None, *, stop_token_ids: Iterable[int] = ()
    ) -> None:
        self._json = tokenizer_json
        self._tokenizer = _load(tokenizer_json)
        vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        num_ids = max(vocab.values(), default=-1) + 1
        if num_ids > MAX_VOCAB_SIZE:
            raise PackageError(
                f"{TOKENIZER_FILE} has a token id {num_ids - 1}; the largest allowed is {MAX_VOCAB_SIZE - 1}"
            )
        self.vocab_size = vocab_size if vocab_size is not None else num_ids
        document = _document_of(tokenizer_json)
        self._bytes = token_bytes_table(document.decoder, vocab, max(self.vocab_size, num_ids))
        fields = msgspec.json.decode(tokenizer_json)
        self._bound = token_bound(fields, self._bytes)
        self._known = KnownPieces() if is_encoded_by_piece(fields) else None
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        stops = frozenset(stop_token_ids)
        self._controls = {
            token.content: token_id
            for token_id, token in added.items()
            if token.content and (token.special or token_id in stops or _CONTROL_FORM.fullmatch(token.content))
        }
        # What lies outside the vocabulary becomes the unknown token, whose name is a control token's in many models.
        self._never_from_text = frozenset(self._controls.values()) - ({document.model.unknown_id(vocab)} - stops)
        self._control_pattern = _alternatives(self._controls)
        self._twin: tokenizers.Tokenizer | None = None

    @classmethod
    def from_package(cls, package: Package) -> Tokenizer:
        """The tokenizer of a verified package. Raises PackageError when the file is not a usable tokenizer."""
        manifest = package.manifest
        text = package.read_bytes(TOKENIZER_FILE, MAX_TOKENIZER_BYTES)
        return cls(text, manifest.shape.vocab_size, stop_token_ids=manifest.stop_token_ids)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of text that is trusted throughout: every control token's name becomes the control token."""
        return _encode(self._tokenizer, text, add_special_tokens=add_special_tokens)

    def encode_plain(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of text from outside: a control token's name in it stays ordinary text.

        Raises RequestError when the text holds the noncharacter U+FDD1.
        """
        return self.encode_spans(text, (), add_special_tokens=add_special_tokens)

    def encode_spans(
        self,
        text: str,
        trusted: Iterable[tuple[int, int]],
        *,
        add_special_tokens: bool = False,
        owner: str | None = None,
    ) -> list[int]:
        """Token ids of text in which control tokens' names count only where they lie inside one trusted span.

        ``trusted`` are half-open ranges of positions, in order. The text is encoded as one, so that ordinary text has
        the ids that ``encode`` gives it. What an ``owner`` had encoded before, between the same control tokens or
        others, is not encoded again; the ids are the same. Raises RequestError when the text holds the noncharacter
        U+FDD1.
        """
        if _KEY_OPEN in text:
            raise RequestError("the text holds the noncharacter U+FDD1, which is not meant for interchange")
        written: Counter[int] = Counter()
        keyed = self._keyed(text, trusted, written)
        if owner is None or self._known is None or add_special_tokens:
            ids = _encode(self._plain_twin(), keyed, add_special_tokens=add_special_tokens)
        else:
            ids = self._encode_pieces(keyed, owner, self._known)
        self._check_controls(ids, written, add_special_tokens=add_special_tokens)
        return ids

    def names_control_token(self, text: str) -> bool:
        """True when a control token's name stands in a text."""
        return self._control_pattern is not None and self._control_pattern.search(text) is not None

    def fewest_tokens(self, text: str) -> int:
        """A number of tokens that the text surely has, without encoding it; 0 when its length tells nothing."""
        return self._bound.fewest_tokens(text)

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

    def vocabulary(self, end_ids: Iterable[int]) -> Vocabulary:
        """The tokens as a constraint sees them. ``end_ids`` are the model's own end tokens, at least one."""
        return Vocabulary(
            token_bytes=tuple(self._bytes[: self.vocab_size]),
            control_ids=dict(self._controls),
            end_ids=tuple(sorted(end_ids)),
            encode=self.encode_plain,
        )

    def prepare(self) -> None:
        """Build now what the first text would otherwise wait for."""
        self._plain_twin()

    def _keyed(self, text: str, trusted: Iterable[tuple[int, int]], written: Counter[int]) -> str:
        """``text`` with keys for the names in trusted spans; counts them in ``written``."""
        pattern = self._control_pattern
        if pattern is None:
            return text

        def key(match: re.Match[str]) -> str:
            token_id = self._controls[match[0]]
            written[token_id] += 1
            return _key(token_id)

        parts, at = [], 0
        for start, end in trusted:
            parts += [text[at:start], pattern.sub(key, text[start:end])]
            at = end
        return "".join([*parts, text[at:]])

    def _encode_pieces(self, keyed: str, owner: str, known: KnownPieces) -> list[int]:
        """The twin's ids of a text with keys: its long pieces are looked up, what stands between them is encoded."""
        texts: list[str] = []  # to be encoded, in the order of their places
        new: list[int] = []  # places of the long ones among them
        found: list[Sequence[int] | None] = []  # a long piece's ids; None for the next of the texts
        short: list[str] = []
        for piece in [*_KEYS.split(keyed), None]:
            if piece is not None and len(piece) < LONG_PIECE_CHARS:
                short.append(piece)
                continue
            found.append(None)
            texts.append("".join(short))
            short.clear()
            if piece is not None:
                found.append(known.find(owner, piece))
                if found[-1] is None:
                    new.append(len(texts))
                    texts.append(piece)
        twin = self._plain_twin()
        encoded = [_encode(twin, text, add_special_tokens=False) for text in texts]  # a batch would take all cores
        for place in new:
            known.keep(owner, texts[place], encoded[place])
        following = iter(encoded)
        ids: list[int] = []
        for part in found:
            ids += next(following) if part is None else part
        return ids

    def _check_controls(self, ids: Sequence[int], written: Counter[int], *, add_special_tokens: bool) -> None:
        """The last line of defence: no control token may come out that was not put in.

        Holds whatever a tokenizer's rules make of a text.
        """
        allowed = Counter(written)
        if add_special_tokens:
            allowed.update(_encode(self._plain_twin(), "", add_special_tokens=True))
        if Counter(token_id for token_id in ids if token_id in self._never_from_text) - allowed:
            raise RequestError("the text holds characters that this model's tokenizer turns into a control token")

    def _plain_twin(self) -> tokenizers.Tokenizer:
        """The same tokenizer whose control tokens have names that no text holds. Built when first needed."""
        if self._twin is None:
            self._twin = _rename_controls(self._json, self._controls)
        return self._twin


class _Model(msgspec.Struct):
    unk_token: str | None = None
    unk_id: int | None = None

    def unknown_id(self, vocab: dict[str, int]) -> int | None:
        return vocab.get(self.unk_token) if self.unk_token is not None else self.unk_id


class _Document(msgspec.Struct):
    model: _Model
    decoder: dict[str, Any] | None = None


def _document_of(tokenizer_json: bytes) -> _Document:
    try:
        return decode_document(tokenizer_json, _Document)
    except ValueError as error:
        raise PackageError(f"{TOKENIZER_FILE} is not readable: {error}") from error


def _load(tokenizer_json: bytes) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(tokenizer_json.decode("utf-8"))
    except Exception as error:
        # The library raises a bare Exception for every kind of bad file.
        version = tokenizers.__version__
        raise PackageError(f"{TOKENIZER_FILE} is not readable by tokenizers {version}: {error!s:.300}") from error


def _encode(tokenizer: tokenizers.Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    # tokenizers 0.23's batch call releases the interpreter lock, the single call does not: a long prompt would stop
    # every other thread of the process for as long as it takes. Without offsets it is also faster.
    return list(tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)


def _key(token_id: int) -> str:
    return f"{_KEY_OPEN}{token_id}{_KEY_CLOSE}"


def _alternatives(contents: Iterable[str]) -> re.Pattern[str] | None:
    longest_first = sorted(contents, key=len, reverse=True)
    return re.compile("|".join(re.escape(content) for content in longest_first)) if longest_first else None


def _rename_controls(tokenizer_json: bytes, controls: dict[str, int]) -> tokenizers.Tokenizer:
    """A tokenizer that finds no control token but by its key. Raises PackageError when that cannot be had.

    Keys are found in the text as it stands: a normalizer could make one of other characters, or unmake it.
    """
    document = msgspec.json.decode(tokenizer_json)
    names = {content: _key(token_id) for content, token_id in controls.items()}
    for token in document["added_tokens"]:
        if token["content"] in names:
            token.update(content=names[token["content"]], normalized=False, single_word=False)
    _rename_vocabulary(document["model"], names)
    twin = _load(msgspec.json.encode(document))
    for content, token_id in controls.items():
        if twin.token_to_id(_key(token_id)) != token_id:
            message = f"{TOKENIZER_FILE}: the control token {content!r} cannot be kept apart from ordinary text"
            raise PackageError(message)
    return twin


def _rename_vocabulary(model: dict[str, Any], names: dict[str, str]) -> None:
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {names.get(token, token): token_id for token, token_id in vocab.items()}
    else:  # Unigram: [token, score] pairs, the id is the position
        model["vocab"] = [[names.get(token, token), score] for token, score in vocab]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:  # BPE: a merge that makes a control token of its characters would make one of any text
        pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
        model["merges"] = [pair for pair in pairs if names.keys().isdisjoint((*pair, "".join(pair)))]
