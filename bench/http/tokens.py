"""Counts tokens and makes texts of an exact number of tokens. Knows tokenizers; knows no requests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from bench.errors import BenchError

_GROWTH_WORDS = 8
_SAMPLES_FOR_ADDITIVITY = 8

# Common English words: one token each with a leading space in nearly every subword vocabulary.
WORDS: tuple[str, ...] = tuple(
    """
    the of and to in is was that for it with as his on be at by had not are but from or have an they which one you
    were her all she there would their we him been has when who will more no if out so said what up its about into
    than them can only other new some could time these two may then do first any my now such like our over man me
    even most made after also did many before must through years where much your way well down should because each
    just those people too little state good very make world still own see men work long here get both between life
    being under never day same another know while last might us great old year off come since against go came right
    used take three states himself few house use during without again place around however home small found thought
    went say part once general high upon school every united number government per fact water always public less
    """.split()  # noqa: SIM905 - a paragraph is easier to read and to change than 200 quoted words
)


class TokenCounter:
    """Counts tokens of a text by a tokenizer, or its words when there is none."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer

    @property
    def is_exact(self) -> bool:
        """Whether counts are a tokenizer's."""
        return self._tokenizer is not None

    def count(self, text: str) -> int:
        """Tokens of ``text`` without special tokens."""
        if self._tokenizer is None:
            return len(text.split())
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


def load_counter(path: Path | None) -> TokenCounter:
    """A counter from a ``tokenizer.json`` or a folder that holds one; words when ``path`` is None. BenchError."""
    if path is None:
        return TokenCounter(None)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise BenchError(f"no tokenizer at {path}; give a tokenizer.json or a folder that holds one")
    try:
        return TokenCounter(Tokenizer.from_file(str(file)))
    except Exception as error:  # tokenizers raises bare Exception for an unreadable file
        raise BenchError(f"{file.name} is not a tokenizer: {error}") from error


@dataclass(frozen=True, slots=True)
class TextMaker:
    """Makes texts of exactly n tokens out of ``words``; see ``synthetic_text`` and ``text_of_file``.

    ``additive`` means that n words were found to be n tokens, so texts need no check.
    """

    counter: TokenCounter
    words: tuple[str, ...]
    additive: bool
    in_order: bool = False

    def text(self, num_tokens: int, rng: np.random.Generator) -> str:
        """A text of exactly ``num_tokens`` tokens. BenchError if the tokenizer allows none."""
        words = self._draw(num_tokens, rng)
        text = " ".join(words)
        if self.additive:
            return text
        while (count := self.counter.count(text)) > num_tokens:
            words = words[: len(words) * num_tokens // count]
            text = " ".join(words)
        while count < num_tokens:
            text, count = self._grown(text, count, num_tokens)
        return text

    def _grown(self, text: str, count: int, num_tokens: int) -> tuple[str, int]:
        """The text with a few more tokens, but not more than wanted, and its count."""
        for piece in (*(f" {word}" for word in self.words[:_GROWTH_WORDS]), " a", ".", "x", "7"):
            grown = self.counter.count(text + piece)
            if count < grown <= num_tokens:
                return text + piece, grown
        raise BenchError(
            f"could not make a text of exactly {num_tokens} tokens with this tokenizer; try another length"
        )

    def _draw(self, count: int, rng: np.random.Generator) -> list[str]:
        if self.in_order:
            start = int(rng.integers(len(self.words)))
            return [self.words[(start + offset) % len(self.words)] for offset in range(count)]
        return [self.words[index] for index in rng.integers(len(self.words), size=count)]


def synthetic_text(counter: TokenCounter) -> TextMaker:
    """Random common words, one token each where the tokenizer has them so."""
    single = tuple(word for word in WORDS if counter.count(word) == 1 and counter.count(f"a {word}") == 2)
    words = single if len(single) >= 32 else WORDS
    rng = np.random.default_rng(0)
    additive = all(
        counter.count(" ".join(rng.choice(words, size=n))) == n for n in range(1, _SAMPLES_FOR_ADDITIVITY + 1)
    )
    return TextMaker(counter, words, additive)


def text_of_file(path: Path, counter: TokenCounter) -> TextMaker:
    """Consecutive words of a text file from a random place, wrapping at its end. BenchError."""
    try:
        words = tuple(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"cannot read {path.name} as UTF-8 text: {error}") from error
    if not words:
        raise BenchError(f"{path.name} holds no words")
    return TextMaker(counter, words, additive=not counter.is_exact, in_order=True)
