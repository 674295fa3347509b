"""Token log-probabilities as both completion endpoints spell them. Knows no choice and no request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.events import TokenEvent
from runtime.text.tokenizer import Tokenizer

from api.response.openai_types import ChoiceLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob


@dataclass(frozen=True, slots=True)
class TokenNames:
    """How tokens are written: by their text, or as ``token_id:N`` where the client asked for that."""

    tokenizer: Tokenizer
    as_ids: bool = False

    def name(self, token_id: int) -> str:
        """The token's text, best effort; incomplete characters show as U+FFFD."""
        return f"token_id:{token_id}" if self.as_ids else self.tokenizer.token_text(token_id)

    def raw(self, token_id: int) -> list[int]:
        """The token's bytes, which may be a part of a character."""
        return list(self.tokenizer.token_bytes(token_id))


def chat_logprobs(tokens: Sequence[TokenEvent], names: TokenNames) -> ChoiceLogprobs:
    """Entries of a chat choice, one per token."""
    return ChoiceLogprobs([_entry(event, names) for event in tokens])


def completion_logprobs(tokens: Sequence[TokenEvent], names: TokenNames, text_start: int) -> CompletionLogprobs:
    """Entries of a text completion; offsets count characters from ``text_start``, where the first token's text is.

    A token that ends inside a character is placed where the character begins.
    """
    offsets, values, tops = [], [], []
    decoded = b""
    for event in tokens:
        offsets.append(text_start + len(decoded.decode("utf-8", errors="ignore")))
        decoded += names.tokenizer.token_bytes(event.token_id)
        values.append(event.logprobs.logprob if event.logprobs else None)
        tops.append({names.name(token_id): value for token_id, value in event.logprobs.top} if event.logprobs else None)
    return CompletionLogprobs([names.name(event.token_id) for event in tokens], list(values), list(tops), offsets)


def _entry(event: TokenEvent, names: TokenNames) -> TokenLogprob:
    found = event.logprobs
    top = [
        TopLogprob(names.name(token_id), value, names.raw(token_id)) for token_id, value in (found.top if found else ())
    ]
    return TokenLogprob(names.name(event.token_id), found.logprob if found else 0.0, names.raw(event.token_id), top)
