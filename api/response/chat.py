"""The answers of ``/v1/chat/completions``: chunks and bodies. Shapes only; ``Generation`` brings deltas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec import UNSET, UnsetType
from runtime.text.answer_delta import AnswerDelta, ArgumentsDelta, CallStarted, ContentDelta, ReasoningDelta
from runtime.text.text_stream import TextToken

from api.error_answer import ErrorAnswer
from api.observe.request_record import RequestRecord
from api.response.generation import Update
from api.response.logprobs import chat_logprobs
from api.response.openai_types import (
    AnsweredCall,
    AnswerMessage,
    CallDelta,
    CalledFunction,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    PromptLogprobs,
    Usage,
)
from api.response.prompt_part import AskedPrompt
from api.response.renderer import AnswerOptions, WholeChoice, error_events, stats_of, usage_of, whole_choices
from api.response.sse import DONE, encode_json, event
from api.response.stream_counts import StreamCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatShape:
    """What a chat request's fields say about its messages.

    ``echo`` is repeated before each choice's own content. ``calls_only``: calls were forced, so content is an empty
    text beside them; otherwise it is null beside calls when there is none. ``new_call_id`` makes the calls' ids.
    ``prompt`` is what the answer tells of the prompt.
    """

    new_call_id: Callable[[], str]
    prompt: AskedPrompt
    echo: str = ""
    calls_only: bool = False


class ChatRenderer:
    """One chat answer."""

    def __init__(self, record: RequestRecord, options: AnswerOptions, shape: ChatShape) -> None:
        self._record = record
        self._options = options
        self._shape = shape
        self._counts = StreamCounts(record, options)

    def opening(self) -> list[bytes]:
        """A role chunk per choice in index order: clients index their snapshots by arrival."""
        deltas = [Delta(role="assistant", content="", refusal=self._options.refusal)]
        if self._shape.echo:
            deltas.append(Delta(content=self._shape.echo))
        return [
            self._event(ChunkChoice(index=index, delta=delta, logprobs=None, finish_reason=None))
            for delta in deltas
            for index in range(self._record.num_choices)
        ]

    def chunks(self, update: Update) -> list[bytes]:
        """The events of one update, a delta each. One without delta, log-probabilities and finish says nothing.

        The tokens' entries go with the first event, the finish with the last.
        """
        self._counts.note(update)
        logprobs = self._logprobs(update.tokens)
        token_ids = _ids(update.tokens, wanted=self._options.shows_ids)
        finish = update.finish
        if not update.deltas and finish is None and logprobs is None and not token_ids:
            return []
        nothing = Delta() if finish and finish.reason == "tool_calls" else Delta(content="")
        deltas = [self._delta(delta) for delta in update.deltas] or [nothing]
        last = len(deltas) - 1
        return [
            self._event(
                ChunkChoice(
                    index=update.index,
                    delta=delta,
                    logprobs=None if place else logprobs,
                    finish_reason=finish.reason if finish and place == last else None,
                    stop_reason=finish.stop_reason if finish and place == last else UNSET,
                    token_ids=UNSET if place else token_ids,
                )
            )
            for place, delta in enumerate(deltas)
        ]

    def closing(self) -> list[bytes]:
        """The usage chunk, when asked for, and the stream's end."""
        usage = self._counts.total()
        return [DONE] if usage is None else [event(self._chunk([], usage, UNSET)), DONE]

    def failed(self, error: ErrorAnswer) -> list[bytes]:
        """The error as an event, and the stream's end."""
        return error_events(error)

    def body(self, updates: Sequence[Update]) -> bytes:
        """The plain answer."""
        choices = whole_choices(updates)
        num_generated = sum(choice.num_tokens for choice in choices)
        options = self._options
        return encode_json(
            ChatCompletion(
                id=options.answer_id,
                created=options.created_unix,
                model=self._record.model,
                system_fingerprint=options.fingerprint,
                choices=[self._choice(choice) for choice in choices],
                usage=usage_of(self._record, options, num_generated, sum(choice.num_reasoning for choice in choices)),
                prompt_token_ids=options.prompt_ids,
                prompt_logprobs=self._prompt_logprobs(choices),
                stats=stats_of(self._record, num_generated) if options.stats else UNSET,
            )
        )

    def _prompt_logprobs(self, choices: Sequence[WholeChoice]) -> PromptLogprobs | UnsetType:
        scores = next((choice.scores for choice in choices if choice.scores is not None), None)
        return UNSET if scores is None else self._shape.prompt.logprobs(scores)

    def _choice(self, choice: WholeChoice) -> ChatChoice:
        return ChatChoice(
            index=choice.index,
            message=self._message(choice),
            logprobs=self._logprobs(choice.tokens),
            finish_reason=choice.finish.reason,
            stop_reason=choice.finish.stop_reason,
            token_ids=_ids(choice.tokens, wanted=self._options.shows_ids),
        )

    def _message(self, choice: WholeChoice) -> AnswerMessage:
        shape = self._shape
        content = shape.echo + choice.content
        calls = [
            AnsweredCall(id=shape.new_call_id(), function=CalledFunction(name=call.name, arguments=call.arguments))
            for call in choice.calls
        ]
        return AnswerMessage(
            content=None if calls and not content and not shape.calls_only else content,
            refusal=self._options.refusal,
            reasoning_content=choice.reasoning or UNSET,
            reasoning=choice.reasoning or UNSET,
            tool_calls=calls or UNSET,
        )

    def _delta(self, delta: AnswerDelta) -> Delta:
        match delta:
            case ContentDelta(text):
                return Delta(content=text)
            case ReasoningDelta(text):
                return Delta(reasoning_content=text, reasoning=text)
            case CallStarted(index, name):
                call_id = self._shape.new_call_id()
                return Delta(
                    tool_calls=[
                        CallDelta(
                            index=index, id=call_id, type="function", function=CalledFunction(name=name, arguments="")
                        )
                    ]
                )
            case ArgumentsDelta(index, text):
                return Delta(tool_calls=[CallDelta(index=index, function=CalledFunction(arguments=text))])

    def _event(self, choice: ChunkChoice) -> bytes:
        usage, prompt_ids = self._counts.usage(choice.index), self._counts.prompt_ids()
        return event(self._chunk([choice], usage, prompt_ids))

    def _chunk(
        self, choices: list[ChunkChoice], usage: Usage | UnsetType | None, prompt_ids: list[int] | UnsetType
    ) -> ChatChunk:
        return ChatChunk(
            id=self._options.answer_id,
            created=self._options.created_unix,
            model=self._record.model,
            system_fingerprint=self._options.fingerprint,
            choices=choices,
            usage=usage,
            prompt_token_ids=prompt_ids,
        )

    def _logprobs(self, tokens: Sequence[TextToken]) -> ChoiceLogprobs | None:
        names = self._options.names
        return None if names is None or not tokens else chat_logprobs(tokens, names, self._options.refusal)


def _ids(tokens: Sequence[TextToken], *, wanted: bool) -> list[int] | UnsetType:
    return [token.token_id for token in tokens] if wanted else UNSET
