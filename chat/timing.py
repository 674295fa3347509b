"""How long an answer took, in a line. Times are the client's, tokens the endpoint's. Knows no request."""

from __future__ import annotations

from dataclasses import dataclass

from chat.wire import Usage

_SHORTEST_S = 0.05  # a stream that was over sooner came in a few reads, whose times say nothing


@dataclass(slots=True)
class Timing:
    """``sent_s``, ``first_s`` and ``last_s`` are times of one clock in seconds; None where no text came."""

    sent_s: float
    first_s: float | None = None
    last_s: float | None = None

    def mark(self, now_s: float) -> None:
        """Text came."""
        self.first_s = now_s if self.first_s is None else self.first_s
        self.last_s = now_s

    def line(self, usage: Usage | None, context: int | None = None) -> str:
        """``prompt 31 (20 cached) + answer 42 tokens of 8192, first after 0.12 s, 85.0 tokens/s``; what is known of it.

        Speed is that of the tokens after the first, which a prompt cannot slow down; an answer in one piece has none.
        """
        parts = []
        if usage is not None and usage.prompt_tokens is not None:
            cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
            limit = f" of {context}" if context else ""
            parts.append(f"prompt {usage.prompt_tokens}{cached} + answer {usage.completion_tokens or 0} tokens{limit}")
        if self.first_s is not None and self.last_s is not None:
            parts.append(f"first after {self.first_s - self.sent_s:.2f} s")
            tokens = (usage.completion_tokens or 0) - 1 if usage is not None else 0
            if tokens > 0 and self.last_s - self.first_s >= _SHORTEST_S:
                parts.append(f"{tokens / (self.last_s - self.first_s):.1f} tokens/s")
        return ", ".join(parts)
