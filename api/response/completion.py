"""The answers of ``/v1/completions``: chunks and bodies. Shapes only; text and finish come from ``Generation``."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from api.observe.request_record import RequestRecord
from api.response.generation import Update
from api.response.logprobs import completion_logprobs
from api.response.openai_types import Completion, CompletionChoice, Usage
from api.response.renderer import AnswerOptions, WholeChoice, stats_of, usage_of
from api.response.sse import encode_json, event


class CompletionRenderer:
    """One text completion. ``echoes`` holds, per prompt, what is repeated before its choices' text."""

    def __init__(self, record: RequestRecord, options: AnswerOptions, echoes: tuple[str, ...]) -> None:
        self._record = record
        self._options = options
        self._echoes = echoes
        self._choices_per_prompt = record.num_choices // len(echoes)
        self._counts = dict.fromkeys(range(record.num_choices), 0)
        self._lengths = dict.fromkeys(range(record.num_choices), 0)
        self._sent_first = False

    def opening(self) -> list[bytes]:
        """Nothing: text completions have no role."""
        return []

    def chunk(self, update: Update) -> bytes | None:
        """The event of one update, or None when it holds nothing to tell."""
        self._counts[update.index] = update.num_tokens
        if not update.text and update.finish is None and (self._options.names is None or not update.tokens):
            return None
        start = self._lengths[update.index]
        self._lengths[update.index] += len(update.text)
        choice = self._choice(update, update.text, start)
        options = self._options
        usage: Usage | UnsetType | None = UNSET
        if options.include_usage:
            running = usage_of(self._record, options, self._counts[update.index])
            usage = running if options.continuous_usage else None
        prompt_ids = UNSET if self._sent_first or options.prompt_ids is None else list(options.prompt_ids)
        self._sent_first = True
        return event(self._answer([choice], usage, prompt_ids))

    def closing(self) -> list[bytes]:
        """The usage chunk, when asked for."""
        if not self._options.include_usage:
            return []
        return [event(self._answer([], usage_of(self._record, self._options, sum(self._counts.values())), UNSET))]

    def body(self, choices: Sequence[WholeChoice]) -> bytes:
        """The plain answer."""
        num_generated = sum(choice.num_tokens for choice in choices)
        options = self._options
        shown = []
        for whole in choices:
            echo = self._echoes[whole.index // self._choices_per_prompt]
            shown.append(self._choice(whole, echo + whole.text, len(echo)))
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
