"""The answers of ``/v1/completions``: chunks and bodies. Shapes only; text and finish come from ``Generation``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from runtime.events import PromptTokenLogprobs
from runtime.text.text_stream import TextToken

from api.error_answer import ErrorAnswer
from api.observe.request_record import RequestRecord
from api.response.generation import Update
from api.response.logprobs import completion_logprobs
from api.response.openai_types import Completion, CompletionChoice, CompletionLogprobs, Usage
from api.response.prompt_part import AskedPrompt, Echo
from api.response.renderer import AnswerOptions, WholeChoice, error_events, stats_of, usage_of, whole_choices
from api.response.sse import DONE, encode_json, event
from api.response.stream_counts import StreamCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionShape:
    """What a request's fields say about its choices, with one entry per prompt.

    ``echoes`` stand before the choices' own text, ``asked`` is what each choice tells of its prompt's tokens; None
    where that is not asked for. ``num_top`` alternatives stand beside each token where log-probabilities are.
    """

    num_prompts: int
    echoes: tuple[Echo, ...] | None = None
    asked: tuple[AskedPrompt, ...] | None = None
    num_top: int = 0


class CompletionRenderer:
    """One text completion of one prompt or several."""

    def __init__(self, record: RequestRecord, options: AnswerOptions, shape: CompletionShape) -> None:
        self._record = record
        self._options = options
        self._shape = shape
        self._choices_per_prompt = record.num_choices // shape.num_prompts
        self._counts = StreamCounts(record, options)
        self._told: set[int] = set()  # choices whose prompt's ids a chunk has told

    def opening(self) -> list[bytes]:
        """The prompts, where they are repeated without log-probabilities: text completions have no role."""
        if self._shape.echoes is None or self._options.names is not None:
            return []
        return [self._echo_chunk(index, None) for index in range(self._record.num_choices)]

    def chunks(self, update: Update) -> list[bytes]:
        """The event of one update, if it holds anything to tell."""
        if update.scores is not None:
            return [self._echo_chunk(update.index, update.scores)]
        self._counts.note(update)
        tells_tokens = bool(update.tokens) and (self._options.names is not None or self._options.shows_ids)
        if not update.content and update.finish is None and not tells_tokens:
            return []
        choice = self._choice(update, update.content, self._own_logprobs(update))
        return [self._chunk(replace(choice, prompt_token_ids=self._prompt_ids_once(update.index)))]

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
        return encode_json(
            Completion(
                id=options.answer_id,
                created=options.created_unix,
                model=self._record.model,
                system_fingerprint=options.fingerprint,
                choices=[self._whole(choice) for choice in choices],
                usage=usage_of(self._record, options, num_generated, num_reasoning=0),
                prompt_token_ids=options.prompt_ids,
                stats=stats_of(self._record, num_generated) if options.stats else UNSET,
            )
        )

    def _whole(self, whole: WholeChoice) -> CompletionChoice:
        shape, prompt = self._shape, whole.index // self._choices_per_prompt
        echo, logprobs, scores = self._echo(whole.index), self._own_logprobs(whole), whole.scores
        if shape.echoes is not None and self._options.names is not None:
            logprobs = self._logprobs([*echo.tokens(scores or ()), *_moved(whole.tokens, len(echo.text))])
        choice = self._choice(whole, echo.text + whole.content, logprobs)
        if self._options.prompts is not None:
            choice = replace(choice, prompt_token_ids=list(self._options.prompts[prompt]))
        if shape.asked is not None and scores is not None:
            choice = replace(choice, prompt_logprobs=shape.asked[prompt].logprobs(scores))
        return choice

    def _choice(self, part: Update | WholeChoice, text: str, logprobs: CompletionLogprobs | None) -> CompletionChoice:
        finish = part.finish
        return CompletionChoice(
            index=part.index,
            text=text,
            logprobs=logprobs,
            finish_reason=finish.reason if finish else None,
            stop_reason=finish.stop_reason if finish else None,
            token_ids=[token.token_id for token in part.tokens] if self._options.shows_ids else UNSET,
        )

    def _echo(self, index: int) -> Echo:
        echoes = self._shape.echoes
        return Echo() if echoes is None else echoes[index // self._choices_per_prompt]

    def _echo_chunk(self, index: int, scores: Sequence[PromptTokenLogprobs] | None) -> bytes:
        echo = self._echo(index)
        logprobs = None if scores is None else self._logprobs(echo.tokens(scores))
        choice = self._choice(Update(index, (), (), 0), echo.text, logprobs)
        return self._chunk(replace(choice, prompt_token_ids=self._prompt_ids_once(index)))

    def _own_logprobs(self, part: Update | WholeChoice) -> CompletionLogprobs | None:
        """Of generated tokens, whose places are counted from the start of all text of the choice."""
        return self._logprobs(_moved(part.tokens, len(self._echo(part.index).text)))

    def _logprobs(self, tokens: Sequence[TextToken]) -> CompletionLogprobs | None:
        names = self._options.names
        return None if names is None or not tokens else completion_logprobs(tokens, names, self._shape.num_top)

    def _prompt_ids_once(self, index: int) -> list[int] | UnsetType:
        prompts = self._options.prompts
        if prompts is None or index in self._told:
            return UNSET
        self._told.add(index)
        return list(prompts[index // self._choices_per_prompt])

    def _chunk(self, choice: CompletionChoice) -> bytes:
        return event(self._answer([choice], self._counts.usage(choice.index), self._counts.prompt_ids()))

    def _answer(
        self, choices: list[CompletionChoice], usage: Usage | UnsetType | None, prompt_ids: list[int] | UnsetType
    ) -> Completion:
        return Completion(
            id=self._options.answer_id,
            created=self._options.created_unix,
            model=self._record.model,
            system_fingerprint=self._options.fingerprint,
            choices=choices,
            usage=usage,
            prompt_token_ids=prompt_ids,
        )


def _moved(tokens: Sequence[TextToken], num_chars: int) -> list[TextToken]:
    return [TextToken(token.token_id, token.logprobs, token.place + num_chars) for token in tokens]
