"""One HTTP request's generation: token events of all its choices in, deltas with finish reasons out.

Owns what happens between the engine and any response shape: submitting, turning tokens into deltas, ending a choice at
a stop string, telling the engine to drop what nobody reads. Streaming and plain answers read the same updates, so
they cannot differ. Knows no JSON and no HTTP.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from runtime.engine.async_engine import AsyncEngine, EventStream
from runtime.errors import EngineUnavailable, Overloaded, PowertrainError, RequestError
from runtime.events import Event, FinishEvent, FinishReason, PromptEvent, PromptTokenLogprobs, TokenEvent
from runtime.request import Request
from runtime.text.answer_delta import AnswerDelta, ArgumentsDelta, CallStarted, ContentDelta
from runtime.text.text_stream import TextToken

from api.errors import GenerationFailedError
from api.response.choice_stream import ChoiceStream, Piece, joined


@dataclass(frozen=True, slots=True)
class Finish:
    """Why a choice ended: ``stop``, ``length`` or ``tool_calls``.

    ``stop_reason`` is the stop string or stop token id, else None.
    """

    reason: str
    stop_reason: str | int | None


@dataclass(frozen=True, slots=True)
class Update:
    """What one choice brought, the tokens that it accounts for, and its end if this is the last.

    ``num_tokens`` are all tokens of the choice so far, ``num_reasoning`` those of its reasoning. ``scores`` are those
    of its prompt, in an update of their own before any token.
    """

    index: int
    deltas: tuple[AnswerDelta, ...]
    tokens: tuple[TextToken, ...]
    num_tokens: int
    finish: Finish | None = None
    scores: tuple[PromptTokenLogprobs, ...] | None = None
    num_reasoning: int = 0

    @property
    def content(self) -> str:
        """The new text for the reader."""
        return "".join(delta.text for delta in self.deltas if isinstance(delta, ContentDelta))


def merged(first: Update, second: Update) -> Update:
    """Two consecutive updates of one choice as one."""
    return replace(second, deltas=tuple(joined(first.deltas + second.deltas)), tokens=first.tokens + second.tokens)


def joined_texts(updates: Sequence[Update]) -> Iterator[Update]:
    """The updates of one choice, with neighbours as one whose only delta is more of the same text."""
    for kind, run in itertools.groupby(updates, _kind_of_text):
        same = list(run)
        if kind is None or len(same) == 1:
            yield from same
            continue
        deltas = [delta for update in same for delta in update.deltas if not isinstance(delta, CallStarted)]
        whole = replace(deltas[0], text="".join(delta.text for delta in deltas))
        tokens = tuple(token for update in same for token in update.tokens)
        yield replace(same[-1], deltas=(whole,), tokens=tokens)


def _kind_of_text(update: Update) -> tuple[type, int] | None:
    """What text an update is, None when it is more or less than text of one kind."""
    if len(update.deltas) != 1 or update.finish is not None or isinstance(update.deltas[0], CallStarted):
        return None
    delta = update.deltas[0]
    return type(delta), delta.index if isinstance(delta, ArgumentsDelta) else 0


class Generation:
    """The choices of one HTTP request: request ``p`` of ``requests`` owns the indices ``p * n`` to ``p * n + n - 1``.

    Iterating yields lists of updates, what one engine step brought, until every choice has its finish. Submits at
    construction: raises Overloaded or EngineUnavailable then, with nothing left running.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        requests: Sequence[Request],
        new_choice: Callable[[], ChoiceStream],
        on_token: Callable[[int], None],
        blamed_field: str | None = None,
    ) -> None:
        self._blamed_field = blamed_field
        self._on_token = on_token
        self._choices: dict[int, ChoiceStream] = {}
        self._streams: list[EventStream] = []
        self._merged: asyncio.Queue[tuple[int, list[Event]]] | None = None
        self._pumps: list[asyncio.Task[None]] = []
        self._num_choices = requests[0].n
        self._failure: PowertrainError | None = None  # raised once the tokens before it were handed on
        self._cached: dict[int, int] = {}  # of each prompt, as its first choice found it
        self.admitted_ns = 0
        try:
            for request in requests:
                self._streams.append(engine.submit(request))
        except PowertrainError:
            self.abort()
            raise
        for index in range(len(requests) * self._num_choices):
            self._choices[index] = new_choice()
        if len(requests) > 1:
            self._start_pumps()

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that came from the prefix cache, of the prompts whose first choice has begun; None before any.

        The others read what the first one computed, which is no saving that the request brought along.
        """
        return sum(self._cached.values()) if self._cached else None

    @property
    def finished(self) -> bool:
        """True when every choice has its finish."""
        return not self._choices

    async def next(self) -> list[Update]:
        """The next updates; empty only when the generation is finished. Cancelling it loses nothing.

        Raises GenerationFailedError when the engine failed, EngineUnavailable when it gave the request up, RequestError
        when the fault is the request's own: then it names ``blamed_field``.
        """
        while self._choices:
            if self._failure is not None:
                raise self._failure
            position, events = await self._next_events()
            updates = self._updates(position, events)
            if updates:
                return updates
        return []

    def abort(self) -> None:
        """Tell the engine to drop what is still running. Idempotent."""
        for stream in self._streams:
            stream.abort()
        for pump in self._pumps:
            pump.cancel()

    async def _next_events(self) -> tuple[int, list[Event]]:
        if self._merged is not None:
            return await self._merged.get()
        try:
            return 0, await self._streams[0].__anext__()
        except StopAsyncIteration:
            raise GenerationFailedError("the events ended before every choice did") from None

    def _updates(self, position: int, events: list[Event]) -> list[Update]:
        updates: list[Update] = []
        before: Update | None = None  # what the event just before this one brought
        for event in events:
            if isinstance(event, PromptEvent):
                first = position * self._num_choices
                updates += [Update(first + n, (), (), 0, scores=event.scores) for n in range(self._num_choices)]
                continue
            index = position * self._num_choices + event.index
            choice = self._choices.get(index)
            if choice is None:  # it has ended at a stop string; its later tokens are nobody's
                continue
            if isinstance(event, TokenEvent):
                before = self._push(index, choice, event)
                updates += [] if before is None else [before]
                continue
            self._failure = self._failure_of(event)
            if self._failure is not None:
                break
            end = self._finish(index, choice, event)
            # A finish rides on the token that brought it. Other updates stay one per token, so that the pieces of a
            # stream do not depend on how busy the event loop is.
            if before is not None and before.index == index:
                updates[-1] = merged(before, end)
            else:
                updates.append(end)
            before = None
        return updates

    def _push(self, index: int, choice: ChoiceStream, event: TokenEvent) -> Update | None:
        self._on_token(index)
        self._note_cached(index, event)
        self.admitted_ns = self.admitted_ns or event.admitted_ns
        piece = choice.push(event)
        if piece is None:
            return None
        if piece.stop is None:
            return _update(index, choice, piece)
        position, within = divmod(index, self._num_choices)
        self._streams[position].abort(within)  # its slot is free within a step; its siblings go on
        return self._end(index, choice, piece, Finish("stop", piece.stop))

    def _note_cached(self, index: int, event: TokenEvent | FinishEvent) -> None:
        position, within = divmod(index, self._num_choices)
        if within == 0:
            self._cached[position] = event.num_cached_tokens

    def _finish(self, index: int, choice: ChoiceStream, event: FinishEvent) -> Update:
        self._note_cached(index, event)
        self.admitted_ns = self.admitted_ns or event.timing.admitted_ns
        piece = choice.finish(cut=event.reason is FinishReason.LENGTH)
        reason = Finish(event.reason.value, event.stop_token_id) if piece.stop is None else Finish("stop", piece.stop)
        return self._end(index, choice, piece, reason)

    def _end(self, index: int, choice: ChoiceStream, piece: Piece, finish: Finish) -> Update:
        del self._choices[index]
        seen = Finish(choice.finish_reason(finish.reason), finish.stop_reason)
        return _update(index, choice, piece, seen)

    def _failure_of(self, event: FinishEvent) -> PowertrainError | None:
        """The error that a choice's end stands for, None for an ordinary end."""
        match event.reason:
            case FinishReason.ERROR if event.for_client:
                return RequestError(event.error or "what is asked for cannot be had", self._blamed_field)
            case FinishReason.ERROR:
                return GenerationFailedError(event.error or "the engine failed")
            case FinishReason.EXPIRED:
                return Overloaded("The request waited too long in the queue; try again later.")
            case FinishReason.ABORT:
                return EngineUnavailable("the server gave the request up")
            case _:
                return None

    def _start_pumps(self) -> None:
        merged: asyncio.Queue[tuple[int, list[Event]]] = asyncio.Queue()

        async def pump(position: int, stream: EventStream) -> None:
            async for events in stream:
                merged.put_nowait((position, events))

        self._merged = merged
        self._pumps = [asyncio.ensure_future(pump(*pair)) for pair in enumerate(self._streams)]


def _update(index: int, choice: ChoiceStream, piece: Piece, finish: Finish | None = None) -> Update:
    num_reasoning = choice.num_reasoning_tokens
    return Update(index, piece.deltas, piece.tokens, choice.num_tokens, finish, num_reasoning=num_reasoning)
