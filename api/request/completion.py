"""The body of ``POST /v1/completions`` as it arrives. Knows neither defaults nor cross-field rules."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from api.request.sampling_fields import SamplingFields

MAX_PROMPTS = 128
MAX_COMPLETION_LOGPROBS = 5
# The controller tells these apart, with messages of its own.
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_LISTS = {
    "minItems": 1,
    "anyOf": [
        {"items": {"type": "string", "minLength": 1}, "maxItems": MAX_PROMPTS},
        {"items": {"type": "integer", "minimum": 0}},
        {"items": _IDS, "maxItems": MAX_PROMPTS},
    ],
}


class CompletionRequest(SamplingFields, kw_only=True):
    """A text completion request. ``prompt`` is text, token ids, or a list of either."""

    prompt: Annotated[
        Annotated[str, Meta(extra_json_schema={"minLength": 1})] | Annotated[list[Any], Meta(extra_json_schema=_LISTS)],
        Meta(description="A string, a list of strings, token ids, or a list of lists of token ids."),
    ]
    max_tokens: (
        Annotated[int, Meta(ge=0, description="Most tokens to generate per choice. 0 only scores the prompt.")] | None
    ) = None
    echo: Annotated[bool, Meta(description="Repeat the prompt before the answer.")] | None = None
    logprobs: (
        Annotated[int, Meta(ge=0, le=MAX_COMPLETION_LOGPROBS, description="With echo, of the prompt's tokens too.")]
        | None
    ) = None

    @property
    def echoed_logprobs(self) -> int | None:
        """Alternatives beside each token of a prompt that is repeated with its log-probabilities; None for none."""
        return self.logprobs if self.echo else None

    @property
    def scored(self) -> tuple[str, int] | None:
        """The field that asks most of the prompt's log-probabilities, and how many alternatives; None if none does."""
        asked = (("logprobs", self.echoed_logprobs), ("prompt_logprobs", self.prompt_logprobs))
        return max(((name, top) for name, top in asked if top is not None), key=lambda one: one[1], default=None)
