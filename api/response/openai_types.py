"""The JSON of answers: chat completions, text completions, chunks, usage, log-probabilities. Shapes only.

Key order is the order on the wire. ``UNSET`` members are left out. ``refusal`` and ``system_fingerprint`` stand in
strict answers only (``AnswerOptions.fingerprint``).
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

StopReason = str | int | None


class TopLogprob(msgspec.Struct, frozen=True):
    """One likely token: its text as far as it is text, natural log of its probability, its raw bytes."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct, frozen=True):
    """A generated token with its most likely alternatives, best first."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(msgspec.Struct, frozen=True):
    """One entry per generated token that the text accounts for."""

    content: list[TokenLogprob]
    refusal: UnsetType | None = UNSET


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """How many prompt tokens came from the prefix cache."""

    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    """How many of the generated tokens stand in reasoning sections, marks included."""

    reasoning_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Token counts: the prompt once, generated tokens of all choices, and their sum."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: PromptTokensDetails | UnsetType = UNSET
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """NIM 1.x's per-request figures, with ``NIM_PER_REQ_METRICS_ENABLE``. Times in milliseconds."""

    type: str = "NIM LLM Model Stats"
    version: str = "0.1.0"
    llm_input_token_length: int
    llm_output_token_length: int
    time_to_first_token_ms: float
    generation_time_ms: float


class CalledFunction(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model calls: its name, and its arguments as JSON text. A stream gives the name once."""

    name: str | UnsetType = UNSET
    arguments: str


class AnsweredCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call of a plain answer."""

    id: str
    type: str = "function"
    function: CalledFunction


class CallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk adds to the ``index``-th call of its choice: first id, type and name, then arguments."""

    index: int
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: CalledFunction


class AnswerMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The assistant's message of a plain answer. Reasoning stands under both names that clients look for."""

    role: str = "assistant"
    content: str | None
    refusal: UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[AnsweredCall] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of a plain answer."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: str
    stop_reason: StopReason
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """A plain answer."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    system_fingerprint: str | UnsetType = UNSET
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    stats: Stats | UnsetType = UNSET


class PromptLogprob(msgspec.Struct, frozen=True):
    """What the model thought of a token at one place of the prompt. Rank 1 is the most likely token."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""Per token of the prompt, by token id: the token itself, then the likeliest; nothing comes before the first: null."""


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk adds to a message."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    refusal: UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[CallDelta] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The one choice of a chunk. ``stop_reason`` stands only beside a finish."""

    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None
    finish_reason: str | None
    stop_reason: StopReason | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a streamed answer."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str | UnsetType = UNSET
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities of a text completion, one entry per token in each list."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of a text completion, plain or streamed. In a stream its first chunk alone tells of the prompt."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: StopReason
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A text completion, plain or one event of a stream."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    system_fingerprint: str | UnsetType = UNSET
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    stats: Stats | UnsetType = UNSET
