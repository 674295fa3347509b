"""The body of ``POST /v1/completions`` as it arrives. Knows neither defaults nor cross-field rules."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from api.request.sampling_fields import SamplingFields

MAX_PROMPTS = 128
MAX_COMPLETION_LOGPROBS = 5


class CompletionRequest(SamplingFields, kw_only=True):
    """A text completion request. ``prompt`` is text, token ids, or a list of either."""

    prompt: Annotated[
        str | list[Any], Meta(description="A string, a list of strings, token ids, or a list of lists of token ids.")
    ]
    echo: Annotated[bool, Meta(description="Repeat the prompt before the answer; not with stream.")] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_COMPLETION_LOGPROBS)] | None = None
