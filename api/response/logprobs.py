"""Token log-probabilities as both completion endpoints spell them. Knows no choice and no request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import UNSET, UnsetType
from runtime.events import TokenLogprobs
from runtime.text.text_stream import TextToken
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


def chat_logprobs(tokens: Sequence[TextToken], names: TokenNames, refusal: UnsetType | None = UNSET) -> ChoiceLogprobs:
    """Entries of a chat choice, one per token. ``refusal`` is what stands for those of a refusal."""
    return ChoiceLogprobs([_entry(event, names) for event in tokens], refusal)


def completion_logprobs(tokens: Sequence[TextToken], names: TokenNames, num_top: int) -> CompletionLogprobs:
    """Entries of a text completion.

    The ``num_top`` likeliest tokens stand beside each token, and the token itself.
    """
    values, tops = [], []
    for token in tokens:
        found = token.logprobs
        values.append(None if found is None else found.logprob)
        tops.append(None if found is None else _with_own(token.token_id, found, names, num_top))
    return CompletionLogprobs(
        tokens=[names.name(token.token_id) for token in tokens],
        token_logprobs=list(values),
        top_logprobs=list(tops),
        text_offset=[token.place for token in tokens],
    )


def _with_own(token_id: int, found: TokenLogprobs, names: TokenNames, num_top: int) -> dict[str, float]:
    """Best first. Of tokens with one name, such as parts of characters, the likeliest stands for all."""
    shown: dict[str, float] = {}
    for shown_id, value in (*found.top[:num_top], (token_id, found.logprob)):
        shown.setdefault(names.name(shown_id), value)
    return shown


def _entry(event: TextToken, names: TokenNames) -> TokenLogprob:
    found = event.logprobs
    top = [
        TopLogprob(names.name(token_id), value, names.raw(token_id)) for token_id, value in (found.top if found else ())
    ]
    return TokenLogprob(names.name(event.token_id), found.logprob if found else 0.0, names.raw(event.token_id), top)
