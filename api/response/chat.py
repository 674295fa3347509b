"""The answers of ``/v1/chat/completions``: chunks and bodies. Shapes only; text and finish come from ``Generation``."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, UnsetType
from runtime.events import TokenEvent

from api.observe.request_record import RequestRecord
from api.response.generation import Update
from api.response.logprobs import chat_logprobs
from api.response.openai_types import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    Usage,
)
from api.response.renderer import AnswerOptions, WholeChoice, stats_of, usage_of
from api.response.sse import encode_json, event


class ChatRenderer:
    """One chat answer. ``echo`` is repeated before each choice's own text."""

    def __init__(self, record: RequestRecord, options: AnswerOptions, echo: str = "") -> None:
        self._record = record
        self._options = options
        self._echo = echo
        self._counts = dict.fromkeys(range(record.num_choices), 0)
        self._sent_first = False

    def opening(self) -> list[bytes]:
        """A role chunk per choice in index order: clients index their snapshots by arrival."""
        deltas = [Delta(role="assistant", content="")]
        if self._echo:
            deltas.append(Delta(content=self._echo))
        return [
            self._event(ChunkChoice(index=index, delta=delta, logprobs=None, finish_reason=None))
            for delta in deltas
            for index in self._counts
        ]

    def chunk(self, update: Update) -> bytes | None:
        """The event of one update. One without text, log-probabilities and finish says nothing and is left out."""
        self._counts[update.index] = update.num_tokens
        logprobs = self._logprobs(update.tokens)
        wants_ids = self._options.prompt_ids is not None
        if not update.text and update.finish is None and logprobs is None and not wants_ids:
            return None
        finish = update.finish
        return self._event(
            ChunkChoice(
                index=update.index,
                delta=Delta(content=update.text),
                logprobs=logprobs,
                finish_reason=finish.reason if finish else None,
                stop_reason=finish.stop_reason if finish else UNSET,
                token_ids=_ids(update.tokens, wanted=wants_ids),
            )
        )

    def closing(self) -> list[bytes]:
        """The usage chunk, when asked for."""
        if not self._options.include_usage:
            return []
        usage = usage_of(self._record, self._options, sum(self._counts.values()))
        return [event(self._chunk([], usage, UNSET))]

    def body(self, choices: Sequence[WholeChoice]) -> bytes:
        """The plain answer."""
        num_generated = sum(choice.num_tokens for choice in choices)
        options = self._options
        return encode_json(
            ChatCompletion(
                id=options.answer_id,
                created=options.created_unix,
                model=self._record.model,
                choices=[self._choice(choice) for choice in choices],
                usage=usage_of(self._record, options, num_generated),
                prompt_token_ids=UNSET if options.prompt_ids is None else list(options.prompt_ids),
                stats=stats_of(self._record, num_generated) if options.stats else UNSET,
            )
        )

    def _choice(self, choice: WholeChoice) -> ChatChoice:
        return ChatChoice(
            index=choice.index,
            message=AnswerMessage("assistant", self._echo + choice.text),
            logprobs=self._logprobs(choice.tokens),
            finish_reason=choice.finish.reason,
            stop_reason=choice.finish.stop_reason,
            token_ids=_ids(choice.tokens, wanted=self._options.prompt_ids is not None),
        )

    def _event(self, choice: ChunkChoice) -> bytes:
        options = self._options
        prompt_ids: list[int] | UnsetType = UNSET
        if options.prompt_ids is not None and not self._sent_first:
            prompt_ids = list(options.prompt_ids)
        self._sent_first = True
        usage: Usage | UnsetType | None = UNSET
        if options.include_usage:
            running = usage_of(self._record, options, self._counts[choice.index])
            usage = running if options.continuous_usage else None
        return event(self._chunk([choice], usage, prompt_ids))

    def _chunk(
        self, choices: list[ChunkChoice], usage: Usage | UnsetType | None, prompt_ids: list[int] | UnsetType
    ) -> ChatChunk:
        return ChatChunk(
            id=self._options.answer_id,
            created=self._options.created_unix,
            model=self._record.model,
            choices=choices,
            usage=usage,
            prompt_token_ids=prompt_ids,
        )

    def _logprobs(self, tokens: Sequence[TokenEvent]) -> ChoiceLogprobs | None:
        names = self._options.names
        return None if names is None or not tokens else chat_logprobs(tokens, names)


def _ids(tokens: Sequence[TokenEvent], *, wanted: bool) -> list[int] | UnsetType:
    return [token.token_id for token in tokens] if wanted else UNSET
