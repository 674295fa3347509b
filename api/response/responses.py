"""The answers of ``/v1/responses``: events and bodies. Shapes only; ``Generation`` brings deltas."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

from msgspec import structs

from api.error_answer import ErrorAnswer
from api.observe.request_record import RequestRecord
from api.response.generation import Update, joined_texts
from api.response.logprobs import chat_logprobs
from api.response.openai_types import TokenLogprob
from api.response.renderer import AnswerOptions
from api.response.response_events import ResponseEvent, StreamEvent
from api.response.response_output import ResponseOutput
from api.response.response_types import (
    IncompleteDetails,
    InputTokensDetails,
    OutputTokensDetails,
    Response,
    ResponseFailure,
    ResponseUsage,
)
from api.response.sse import encode_json, named_event

_ERROR_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}


class ResponsesRenderer:
    """One response, which has one choice. ``begun`` is the response before anything of its output is known.

    A stream has no end mark: its last event is that the response is completed, incomplete or failed.
    """

    def __init__(
        self,
        record: RequestRecord,
        options: AnswerOptions,
        begun: Response,
        *,
        new_id: Callable[[str], str],
        as_summary: bool = False,
    ) -> None:
        self._record = record
        self._options = options
        self._begun = begun
        self._number = itertools.count().__next__
        self._output = ResponseOutput(self._number, new_id, as_summary=as_summary)
        self._num_tokens = self._num_reasoning = 0
        self._complete = False

    def opening(self) -> list[bytes]:
        """That the response exists and that work on it has begun."""
        return [self._event("created", self._begun), self._event("in_progress", self._begun)]

    def chunks(self, update: Update) -> list[bytes]:
        """The events of the items that one update brought, went on with or ended."""
        return [named_event(event.type, event) for event in self._take(update)]

    def closing(self) -> list[bytes]:
        """The whole response."""
        whole = self._whole()
        return [self._event(whole.status, whole)]

    def failed(self, error: ErrorAnswer) -> list[bytes]:
        """The response as far as it came, with what a client may know of the failure."""
        code = _ERROR_CODES.get(error.status, "server_error")
        failure = ResponseFailure(code, error.as_struct().error.message)
        failed = structs.replace(self._begun, status="failed", error=failure, output=self._output.items)
        return [self._event("failed", failed)]

    def body(self, updates: Sequence[Update]) -> bytes:
        """The plain answer."""
        for update in joined_texts(updates):  # a long answer's thousands of events are of no use here
            self._take(update)
        return encode_json(self._whole())

    def _take(self, update: Update) -> list[StreamEvent]:
        self._num_tokens, self._num_reasoning = update.num_tokens, update.num_reasoning
        events = self._output.add(update.deltas, self._logprobs(update))
        if update.finish is not None:
            self._complete = update.finish.reason != "length"
            events += self._output.finish(complete=self._complete)
        return events

    def _logprobs(self, update: Update) -> list[TokenLogprob]:
        names = self._options.names
        return [] if names is None or not update.tokens else chat_logprobs(update.tokens, names).content

    def _whole(self) -> Response:
        output = self._output.items
        if self._complete:
            ended = {"status": "completed", "completed_at": int(time.time())}
        else:
            ended = {"status": "incomplete", "incomplete_details": IncompleteDetails()}
        return structs.replace(self._begun, output=output, usage=self._usage(), **ended)

    def _usage(self) -> ResponseUsage:
        num_input, num_output = self._record.num_prompt_tokens, self._num_tokens
        cached = (self._record.cached_tokens or 0) if self._options.cached_tokens else 0
        return ResponseUsage(
            input_tokens=num_input,
            input_tokens_details=InputTokensDetails(cached),
            output_tokens=num_output,
            output_tokens_details=OutputTokensDetails(self._num_reasoning),
            total_tokens=num_input + num_output,
        )

    def _event(self, kind: str, response: Response) -> bytes:
        name = f"response.{kind}"
        return named_event(name, ResponseEvent(type=name, sequence_number=self._number(), response=response))
