"""What is asked: conversations from synthetic text, a file, recorded chats or a trace. No clock, no network.

A conversation is a list of user turns; the load plays them in order and puts the endpoint's own answers between them.
One-turn conversations are plain independent requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import numpy as np

from bench.errors import BenchError
from bench.http.endpoint import Message
from bench.http.lengths import Lengths
from bench.http.tokens import TextMaker, TokenCounter


@dataclass(frozen=True, slots=True)
class Turn:
    """One user message and the longest answer allowed. ``think_s`` passes between the last answer and this turn."""

    text: str
    max_tokens: int
    think_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns after an optional shared opening. ``start_s`` is set by traces, in seconds from the run's beginning."""

    turns: tuple[Turn, ...]
    opening: tuple[Message, ...] = ()
    start_s: float | None = None


_Line = TypeVar("_Line")


class Workload(Protocol):
    """A source of conversations; the same seed gives the same conversations."""

    def conversations(self, rng: np.random.Generator) -> Iterator[Conversation]:
        """Conversations in order; may end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedWorkload:
    """Endless conversations of made texts.

    Every prompt differs, so that no prefix cache helps by accident, except for ``prefix_share`` (0..1) of the
    conversations, which open with the same system message of ``prefix_tokens`` tokens.
    """

    text: TextMaker
    prompt_tokens: Lengths
    output_tokens: Lengths
    num_turns: int = 1
    think_s: float = 0.0
    prefix_tokens: int = 0
    prefix_share: float = 1.0

    def conversations(self, rng: np.random.Generator) -> Iterator[Conversation]:
        """Endless."""
        shared: tuple[Message, ...] = ()
        if self.prefix_tokens:
            shared = (Message("system", self.text.text(self.prefix_tokens, rng)),)
        while True:
            opening = shared if shared and rng.random() < self.prefix_share else ()
            yield Conversation(tuple(self._turn(rng, number) for number in range(self.num_turns)), opening)

    def _turn(self, rng: np.random.Generator, number: int) -> Turn:
        text = self.text.text(self.prompt_tokens.draw(rng), rng)
        return Turn(text, self.output_tokens.draw(rng), self.think_s if number else 0.0)


@dataclass(frozen=True, slots=True)
class RecordedWorkload:
    """A fixed list of conversations, from a file of chats or a trace; repeated from the start when ``repeat``."""

    items: tuple[Conversation, ...]
    repeat: bool = True
    shuffle: bool = False

    def conversations(self, rng: np.random.Generator) -> Iterator[Conversation]:
        """The list, in order or shuffled by the seed."""
        while True:
            order = rng.permutation(len(self.items)) if self.shuffle else np.arange(len(self.items))
            yield from (self.items[index] for index in order)
            if not self.repeat:
                return


class _ShareGptTurn(msgspec.Struct):
    role: str = msgspec.field(name="from")
    value: str = ""


class _ChatLine(msgspec.Struct):
    conversations: list[_ShareGptTurn] | None = None
    messages: list[Message] | None = None
    prompt: str | None = None
    output_tokens: int | None = None


class _TraceLine(msgspec.Struct):
    timestamp: float
    output_length: int
    input_length: int | None = None
    prompt: str | None = None
    messages: list[Message] = []


def recorded_chats(
    path: Path, counter: TokenCounter, output_tokens: Lengths | None, max_turns: int, rng: np.random.Generator
) -> RecordedWorkload:
    """ShareGPT-like JSONL: ``conversations`` of from/value, ``messages`` of role/content, or ``prompt``. BenchError.

    An answer's limit is ``output_tokens`` if given, else the length of the recorded answer, as in vLLM's benchmark.
    """
    items = []
    for number, line in enumerate(_lines(path), 1):
        chat = _parse(line, _ChatLine, path, number)
        conversation = _chat_turns(chat, counter, output_tokens, max_turns, rng)
        if conversation.turns:
            items.append(conversation)
    if not items:
        raise BenchError(f"{path.name} holds no conversation with a user turn")
    return RecordedWorkload(tuple(items), shuffle=True)


def recorded_trace(path: Path, text: TextMaker, speedup: float, rng: np.random.Generator) -> RecordedWorkload:
    """A trace in JSONL: ``timestamp`` (ms), ``output_length``, and ``prompt``, ``messages`` or ``input_length``.

    The form of the Mooncake and AIPerf traces. Lengths without a text get synthetic text. Times start at 0 and are
    divided by ``speedup``. BenchError.
    """
    rows = [_parse(line, _TraceLine, path, number) for number, line in enumerate(_lines(path), 1)]
    if not rows:
        raise BenchError(f"{path.name} is empty")
    rows.sort(key=lambda row: row.timestamp)
    first_ms = rows[0].timestamp
    items = []
    for row in rows:
        opening = tuple(row.messages[:-1])
        prompt = row.messages[-1].content if row.messages else row.prompt
        if prompt is None:
            if row.input_length is None:
                raise BenchError(f"{path.name}: a row has neither prompt, messages nor input_length")
            prompt = text.text(row.input_length, rng)
        start_s = (row.timestamp - first_ms) / 1e3 / speedup
        items.append(Conversation((Turn(prompt, row.output_length),), opening, start_s))
    return RecordedWorkload(tuple(items), repeat=False)


def _chat_turns(
    chat: _ChatLine, counter: TokenCounter, output_tokens: Lengths | None, max_turns: int, rng: np.random.Generator
) -> Conversation:
    if chat.prompt is not None:
        limit = output_tokens.draw(rng) if output_tokens else chat.output_tokens or 128
        return Conversation((Turn(chat.prompt, limit),))
    names = {"human": "user", "user": "user", "system": "system"}
    messages = chat.messages or [Message(names.get(t.role, "assistant"), t.value) for t in chat.conversations or []]
    opening = tuple(message for message in messages[:1] if message.role == "system")
    turns = []
    for message, answer in zip(messages, [*messages[1:], None], strict=True):
        if message.role != "user" or not message.content:
            continue
        recorded = counter.count(answer.content) if answer is not None and answer.role == "assistant" else 128
        turns.append(Turn(message.content, output_tokens.draw(rng) if output_tokens else max(recorded, 1)))
    return Conversation(tuple(turns[:max_turns]), opening)


def _lines(path: Path) -> list[bytes]:
    try:
        return [line for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise BenchError(f"cannot read {path.name}: {error.strerror}") from error


def _parse(line: bytes, kind: type[_Line], path: Path, number: int) -> _Line:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BenchError(f"{path.name} line {number} is not usable: {error}") from error
