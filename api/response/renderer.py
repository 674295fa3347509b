"""What an answer looks like on the wire, whichever endpoint asks: the seam between generation and response shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import UNSET, UnsetType
from runtime.events import PromptTokenLogprobs
from runtime.text.answer_delta import ArgumentsDelta, CallStarted, ContentDelta, ReasoningDelta
from runtime.text.text_stream import TextToken

from api.error_answer import ErrorAnswer
from api.observe.request_record import RequestRecord
from api.response.generation import Finish, Update
from api.response.logprobs import TokenNames
from api.response.openai_types import CompletionTokensDetails, PromptTokensDetails, Stats, Usage
from api.response.sse import DONE, event


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """What the client, the operator and the model's form say about the shape of an answer.

    ``names`` is None without log-probabilities. ``prompts`` are the token ids of each prompt, None where no ids are
    asked for. With a ``fingerprint`` of what answers, answers have all that OpenAI's schema requires.
    """

    answer_id: str
    created_unix: int
    names: TokenNames | None = None
    include_usage: bool = False
    continuous_usage: bool = False
    cached_tokens: bool = False
    reasoning_tokens: bool = False
    stats: bool = False
    prompts: tuple[tuple[int, ...], ...] | None = None
    fingerprint: str | UnsetType = UNSET

    @property
    def refusal(self) -> UnsetType | None:
        """What stands for a refusal, which this server never makes."""
        return UNSET if self.fingerprint is UNSET else None

    @property
    def shows_ids(self) -> bool:
        """True when the answer tells token ids."""
        return self.prompts is not None

    @property
    def prompt_ids(self) -> list[int] | UnsetType:
        """The token ids of the prompt of the whole answer; left out where there are several."""
        return list(self.prompts[0]) if self.prompts is not None and len(self.prompts) == 1 else UNSET


@dataclass(frozen=True, slots=True)
class WholeCall:
    """All of one call of a tool: ``arguments`` are JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class WholeChoice:
    """All of one choice. ``scores`` are its prompt's, None where they are not asked for."""

    index: int
    content: str
    reasoning: str
    calls: tuple[WholeCall, ...]
    tokens: tuple[TextToken, ...]
    num_tokens: int
    finish: Finish
    scores: tuple[PromptTokenLogprobs, ...] | None = None
    num_reasoning: int = 0


class Renderer(Protocol):
    """Turns updates into bytes. A stream is opening, chunks, and closing or failed; a plain answer is one body."""

    def opening(self) -> list[bytes]:
        """Events before any text."""
        ...

    def chunks(self, update: Update) -> list[bytes]:
        """The events of one update; none when it holds nothing to tell."""
        ...

    def closing(self) -> list[bytes]:
        """Events after the last text: the stream's end."""
        ...

    def failed(self, error: ErrorAnswer) -> list[bytes]:
        """Events that end a stream which cannot go on, whatever came before."""
        ...

    def body(self, updates: Sequence[Update]) -> bytes:
        """The plain answer, of all updates of all choices."""
        ...


def error_events(error: ErrorAnswer) -> list[bytes]:
    """How a stream of completions ends that cannot go on."""
    return [event(error.as_struct()), DONE]


def usage_of(record: RequestRecord, options: AnswerOptions, num_generated: int, num_reasoning: int) -> Usage:
    """Token counts of a request so far."""
    cached = record.cached_tokens if options.cached_tokens else None
    return Usage(
        record.num_prompt_tokens,
        record.num_prompt_tokens + num_generated,
        num_generated,
        UNSET if cached is None else PromptTokensDetails(cached),
        CompletionTokensDetails(num_reasoning) if options.reasoning_tokens else UNSET,
    )


def stats_of(record: RequestRecord, num_generated: int) -> Stats:
    """NIM 1.x's per-request figures."""
    return Stats(
        llm_input_token_length=record.num_prompt_tokens,
        llm_output_token_length=num_generated,
        time_to_first_token_ms=round((record.ttft_s or 0.0) * 1e3, 3),
        generation_time_ms=round((record.last_token_ns - record.first_token_ns) / 1e6, 3),
    )


def whole_choices(updates: Sequence[Update]) -> list[WholeChoice]:
    """Fold the updates of finished choices, sorted by index."""
    parts: dict[int, list[Update]] = {}
    for update in updates:
        parts.setdefault(update.index, []).append(update)
    return [_whole(index, parts[index]) for index in sorted(parts)]


def _whole(index: int, updates: list[Update]) -> WholeChoice:
    finish = updates[-1].finish
    if finish is None:
        raise ValueError(f"choice {index} has no finish")
    content: list[str] = []
    reasoning: list[str] = []
    names: list[str] = []
    arguments: dict[int, list[str]] = {}
    for delta in (delta for update in updates for delta in update.deltas):
        match delta:
            case ContentDelta(text):
                content.append(text)
            case ReasoningDelta(text):
                reasoning.append(text)
            case CallStarted(_, name):
                names.append(name)
            case ArgumentsDelta(call, text):
                arguments.setdefault(call, []).append(text)
    calls = tuple(WholeCall(name, "".join(arguments.get(call, ()))) for call, name in enumerate(names))
    tokens = tuple(token for update in updates for token in update.tokens)
    scores = next((update.scores for update in updates if update.scores is not None), None)
    texts, last = ("".join(content), "".join(reasoning)), updates[-1]
    return WholeChoice(index, *texts, calls, tokens, last.num_tokens, finish, scores, last.num_reasoning)
