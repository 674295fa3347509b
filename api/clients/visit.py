"""One request of a client: what it takes of the client's limits at its start, and gives back when less was used.

Tokens are taken for the longest answer that the request allows, before anything is generated, and settled when it is
known how many there were: a client can never get more than its budget. Knows no HTTP but the headers that tell it.
"""

from __future__ import annotations

from collections.abc import Callable

from runtime.errors import RequestError

from api.clients.budget import Budget
from api.clients.client import Client, Reason
from api.errors import ClientLimitError

_NS_PER_MS = 1_000_000
_NS_PER_S = 1_000_000_000
_PLACE_RETRY_S = 1  # nobody knows when one of the client's own answers ends


class Visit:
    """A request that has a client. ``enter`` takes its place; ``leave`` ends it, whatever became of it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inside = False
        self._counts = True
        self._requests: Budget | None = None  # what was taken, and from which budget: limits may change meanwhile
        self._tokens: Budget | None = None
        self._reserved = 0
        self._usage: Callable[[], tuple[int, int]] | None = None
        self._is_whole = False
        self._settled = False

    def enter(self) -> None:
        """Take one request and one place. Raises ClientLimitError, having taken nothing."""
        client, now_ns = self._client, self._client.clock()
        most = client.limits.max_concurrency
        if most is not None and client.num_running >= most:
            self._refuse(
                Reason.CONCURRENCY, f"{client.num_running} requests at once, the limit is {most}", _PLACE_RETRY_S
            )
        if client.requests is not None:
            if wait_ns := client.requests.wait_ns(1, now_ns):
                limit = client.requests.per_minute
                self._refuse(Reason.REQUESTS, f"{limit} requests per minute are the limit", _seconds(wait_ns))
            client.requests.spend(1, now_ns)
            self._requests = client.requests
        self._inside = True
        client.num_running += 1

    def reserve(self, num_prompt_tokens: int, max_generated: int) -> None:
        """Take the tokens that the request may use. Raises ClientLimitError, or RequestError when it can never fit.

        A refusal takes back that the request was counted, so that the same request is served after the time given.
        """
        budget, amount, now_ns = self._client.tokens, num_prompt_tokens + max_generated, self._client.clock()
        if budget is None:
            return
        if amount > budget.per_minute:
            self._client.refused[Reason.TOO_LARGE] += 1
            raise RequestError(
                f"this request may use {amount} tokens ({num_prompt_tokens} of its prompt and up to {max_generated} of "
                f"its answer), and this API key has {budget.per_minute} per minute: it can never be served; shorten "
                "the prompt or ask for a shorter answer"
            )
        if wait_ns := budget.wait_ns(amount, now_ns):
            left = budget.remaining(now_ns)
            told = f"{budget.per_minute} tokens per minute are the limit, {left} are left and {amount} are needed"
            self.take_back()
            self._refuse(Reason.TOKENS, told, _seconds(wait_ns))
        budget.spend(amount, now_ns)
        self._tokens, self._reserved = budget, amount

    def charge(self, usage: Callable[[], tuple[int, int]], *, is_whole: bool) -> None:
        """Say how many tokens of prompt and answer were used in the end, which ``usage`` knows then.

        ``is_whole`` says that the answer is sent at once: then the headers know as well.
        """
        self._usage, self._is_whole = usage, is_whole

    def take_back(self) -> None:
        """Undo that the request was counted: the server, not the client, is why it is not served."""
        self._counts = False
        self._settle(0, 0)
        if self._requests is not None:
            self._requests.give_back(1, self._client.clock())
            self._requests = None

    def leave(self) -> None:
        """End the request: its place is free, and tokens beyond those used are given back. Idempotent."""
        if self._inside:
            self._inside = False
            self._client.num_running -= 1
            self._client.num_requests += self._counts
        self._settle(*(self._usage() if self._usage else (0, 0)))

    def headers(self) -> dict[str, str]:
        """OpenAI's ``x-ratelimit-*`` of the limits that the client has. Call it when the answer begins."""
        if self._usage is not None and self._is_whole:
            self._settle(*self._usage())
        now_ns = self._client.clock()
        told: dict[str, str] = {}
        for kind, budget in (("requests", self._client.requests), ("tokens", self._client.tokens)):
            if budget is not None:
                told[f"x-ratelimit-limit-{kind}"] = str(budget.per_minute)
                told[f"x-ratelimit-remaining-{kind}"] = str(budget.remaining(now_ns))
                told[f"x-ratelimit-reset-{kind}"] = duration(budget.full_ns(now_ns))
        return told

    def _settle(self, num_prompt_tokens: int, num_generated: int) -> None:
        if self._settled:
            return
        self._settled = True
        self._client.num_prompt_tokens += num_prompt_tokens
        self._client.num_generated_tokens += num_generated
        if self._tokens is not None:
            self._tokens.give_back(self._reserved - num_prompt_tokens - num_generated, self._client.clock())

    def _refuse(self, reason: Reason, told: str, retry_s: int) -> None:
        self._client.refused[reason] += 1
        raise ClientLimitError(f"Rate limit of this API key: {told}; try again in {retry_s} s.", retry_s)


def duration(span_ns: int) -> str:
    """A time as OpenAI's headers write it: ``120ms``, ``1s``, ``1.5s``, ``6m0s``; rounded up to milliseconds."""
    total_ms = -(-span_ns // _NS_PER_MS)
    if 0 < total_ms < 1000:
        return f"{total_ms}ms"
    minutes, rest_ms = divmod(total_ms, 60_000)
    seconds = f"{rest_ms / 1000:g}s"
    return f"{minutes}m{seconds}" if minutes else seconds


def _seconds(wait_ns: int) -> int:
    return -(-wait_ns // _NS_PER_S)  # rounded up
