"""The answers of ``/v1/completions``: chunks and bodies. Shapes only; text and finish come from ``Generation``."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from api.error_answer import ErrorAnswer
from api.observe.request_record import RequestRecord
from api.response.generation import Update
from api.response.logprobs import completion_logprobs
from api.response.openai_types import Completion, CompletionChoice, Usage
from api.response.renderer import AnswerOptions, WholeChoice, error_events, stats_of, usage_of, whole_choices
from api.response.sse import DONE, encode_json, event
from api.response.stream_counts import StreamCounts


class CompletionRenderer:
    """One text completion. ``echoes`` holds, per prompt, what is repeated before its choices' text."""

    def __init__(self, record: RequestRecord, options: AnswerOptions, echoes: tuple[str, ...]) -> None:
        self._record = record
        self._options = options
        self._echoes = echoes
        self._choices_per_prompt = record.num_choices // len(echoes)
        self._counts = StreamCounts(record, options)
        self._lengths = dict.fromkeys(range(record.num_choices), 0)

    def opening(self) -> list[bytes]:
        """Nothing: text completions have no role."""
        return []

    def chunks(self, update: Update) -> list[bytes]:
        """The event of one update, if it holds anything to tell."""
        self._counts.note(update.index, update.num_tokens)
        text = update.content
        if not text and update.finish is None and (self._options.names is None or not update.tokens):
            return []
        start = self._lengths[update.index]
        self._lengths[update.index] += len(text)
        usage, prompt_ids = self._counts.usage(update.index), self._counts.prompt_ids()
        return [event(self._answer([self._choice(update, text, start)], usage, prompt_ids))]

    def closing(self) -> list[bytes]:
        """The usage chunk, when asked for, and the stream's end."""
        usage = self._counts.total()
        return [DONE] if usage is None else [event(self._answer([], usage, UNSET)), DONE]

    def failed(self, error: ErrorAnswer) -> list[bytes]:
        """The error as an event, and the stream's end."""
        return error_events(error)

    def body(self, updates: Sequence[Update]) -> bytes:
        """The plain answer."""
        choices = whole_choices(updates)
        num_generated = sum(choice.num_tokens for choice in choices)
        options = self._options
        shown = []
        for whole in choices:
            echo = self._echoes[whole.index // self._choices_per_prompt]
            shown.append(self._choice(whole, echo + whole.content, len(echo)))
        return encode_json(
            Completion(
                id=options.answer_id,
                created=options.created_unix,
                model=self._record.model,
                choices=shown,
                usage=usage_of(self._record, options, num_generated),
                prompt_token_ids=UNSET if options.prompt_ids is None else list(options.prompt_ids),
                stats=stats_of(self._record, num_generated) if options.stats else UNSET,
            )
        )

    def _choice(self, part: Update | WholeChoice, text: str, text_start: int) -> CompletionChoice:
        tokens, finish, names = part.tokens, part.finish, self._options.names
        return CompletionChoice(
            index=part.index,
            text=text,
            logprobs=None if names is None or not tokens else completion_logprobs(tokens, names, text_start),
            finish_reason=finish.reason if finish else None,
            stop_reason=finish.stop_reason if finish else None,
            token_ids=UNSET if self._options.prompt_ids is None else [token.token_id for token in tokens],
        )

    def _answer(
        self, choices: list[CompletionChoice], usage: Usage | UnsetType | None, prompt_ids: list[int] | UnsetType
    ) -> Completion:
        return Completion(
            id=self._options.answer_id,
            created=self._options.created_unix,
            model=self._record.model,
            choices=choices,
            usage=usage,
            prompt_token_ids=prompt_ids,
        )
