"""What the engine says about a request while it runs. Plain values that cross from the engine thread to the server.

Each choice of an accepted request yields zero or more TokenEvents and then exactly one FinishEvent, also when the
engine dies. Where the prompt's log-probabilities are asked for, one PromptEvent comes before any token of the request.
Knows token ids and times; knows no text and no HTTP. Times are ``time.perf_counter_ns()``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec


class FinishReason(StrEnum):
    """Why a choice ended. ``STOP`` and ``LENGTH`` alone reach a client as a finish reason.

    ``EXPIRED``: it waited in the queue longer than the operator allows, and never ran.
    """

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    EXPIRED = "expired"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities of one token: natural log, floored at -9999.0.

    They are of the raw logits, of a generated token those that the request's constraint allows; no other rule counts.

    ``top`` holds (token id, logprob) of the most likely tokens, best first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class PromptTokenLogprobs:
    """Log-probabilities of one token of a prompt, given all before it. ``rank`` 1 is the most likely token."""

    logprobs: TokenLogprobs
    rank: int


@dataclass(frozen=True, slots=True)
class PromptEvent:
    """A prompt was read: what the model thought of each of its tokens but the first, which nothing comes before.

    It is told once for all choices of the request, by its first.
    """

    request_id: str
    index: int
    scores: tuple[PromptTokenLogprobs, ...]


class TokenEvent(msgspec.Struct, frozen=True, gc=False):
    """One generated token of choice ``index``, whose sequence got its slot at ``admitted_ns``.

    A Struct, the only one here: there is one per token, and a frozen dataclass takes ten times as long to make. What it
    refers to never refers back, so the garbage collector need not look at it.

    ``ends`` are the numbers of the token's bytes, 0 to all, after which the choice's text satisfies its constraint;
    empty unless the request watches them. ``num_cached_tokens`` are prompt tokens taken from the prefix cache.
    """

    request_id: str
    index: int
    token_id: int
    logprobs: TokenLogprobs | None
    admitted_ns: int = 0
    ends: tuple[int, ...] = ()
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """When things happened to a request. ``admitted_ns`` and ``first_token_ns`` are 0 if it never came so far."""

    arrival_ns: int
    admitted_ns: int
    first_token_ns: int
    finish_ns: int


@dataclass(frozen=True, slots=True)
class FinishEvent:
    """The end of choice ``index``.

    ``stop_token_id`` is the token that ended it when that is one of the request's ``stop_token_ids``; None for the
    model's own end token. ``num_cached_tokens`` are prompt tokens taken from the prefix cache. ``error`` is set
    with ``ERROR`` only and is fit for a log; for a client too with ``for_client``: then it follows from the request
    itself, and to ask again is of no use.
    """

    request_id: str
    index: int
    reason: FinishReason
    stop_token_id: int | None
    num_generated: int
    num_cached_tokens: int
    timing: Timing
    error: str | None = None
    for_client: bool = False


Event = PromptEvent | TokenEvent | FinishEvent
