"""What an answer tells of its prompt: the text repeated, and the log-probabilities of its tokens. Knows no choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.events import PromptTokenLogprobs
from runtime.text.text_stream import TextToken
from runtime.text.tokenizer import Tokenizer
from runtime.text.utf8_text import Utf8Text

from api.response.openai_types import PromptLogprob, PromptLogprobs


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    """A prompt whose ``prompt_logprobs`` may be asked for, with ``num_top`` alternatives beside each token."""

    token_ids: tuple[int, ...]
    tokenizer: Tokenizer
    num_top: int

    def logprobs(self, scores: Sequence[PromptTokenLogprobs]) -> PromptLogprobs:
        """The entries, of which the first is null. ``scores`` may hold more alternatives than were asked for."""
        found: PromptLogprobs = [None]
        for token_id, score in zip(self.token_ids[1:], scores, strict=True):
            found.append(self._entry(token_id, score))
        return found

    def _entry(self, token_id: int, score: PromptTokenLogprobs) -> dict[str, PromptLogprob]:
        top = score.logprobs.top[: self.num_top]
        text = self.tokenizer.token_text
        shown = {token_id: (score.logprobs.logprob, score.rank)}
        for rank, (likely_id, value) in enumerate(top, start=1):
            shown.setdefault(likely_id, (value, rank))
        return {str(key): PromptLogprob(value, rank, text(key)) for key, (value, rank) in shown.items()}


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt as its answer repeats it: ``text``, and for each token the character at which it begins."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    places: tuple[int, ...] = ()

    def tokens(self, scores: Sequence[PromptTokenLogprobs]) -> list[TextToken]:
        """The prompt's tokens with their log-probabilities; the first has none."""
        known = [None, *(score.logprobs for score in scores)]
        return [TextToken(*entry) for entry in zip(self.token_ids, known, self.places, strict=True)]


def echo_of(token_ids: tuple[int, ...], tokenizer: Tokenizer) -> Echo:
    """The echo of a prompt. Control tokens have no text.

    The library's decoder may drop a space before the first word, which the tokens' own bytes have.
    """
    text = tokenizer.decode(token_ids)
    own, places = Utf8Text(), []
    for token_id in token_ids:
        data = b"" if token_id in tokenizer.special_ids else tokenizer.token_bytes(token_id)
        places.append(own.place_of(data))
        own.add(data)
    own.finish()
    dropped = max(0, own.num_chars - len(text))
    return Echo(text, token_ids, tuple(max(0, place - dropped) for place in places))
