"""The request fields that chat and text completions share: types, ranges and one line of meaning each.

The structs are the single source of validation and of the OpenAPI description. ``None`` means absent everywhere.
Knows nothing of what a field does to sampling (``api.request.sampling``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from api.request.structured import BackendName, ResponseFormat, SchemaValue, StructuredOutputs, WhitespacePattern

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
MAX_SALT_CHARS = 256
MAX_BAD_WORDS, MAX_BAD_WORD_CHARS = 1024, 256
MAX_STOP_CHARS = 4096
MAX_LISTED_IDS = 4096
"""Most tokens of ``logit_bias`` and ``stop_token_ids``: each costs a little at every token that is drawn."""
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
ONLY_REFUSED = "x-only-refused"
"""Marks a field's schema: its only accepted value asks for nothing, so the description leaves it out."""

OnlyRefused = Meta(extra_json_schema={ONLY_REFUSED: True})
# Refused by rules of their own, with messages of their own; said here for the description.
_NOT_EMPTY = {"minLength": 1}
StopString = Annotated[str, Meta(max_length=MAX_STOP_CHARS, extra_json_schema=_NOT_EMPTY)]
BadWord = Annotated[str, Meta(max_length=MAX_BAD_WORD_CHARS, extra_json_schema={"pattern": r"\S"})]
TokenId = Annotated[int, Meta(extra_json_schema={"minimum": 0})]


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream reports beside its text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class SamplingFields(msgspec.Struct, kw_only=True):
    """Fields of both completion endpoints, in the order of docs/contract.md."""

    model: Annotated[str, Meta(description="A served model name. Absent or empty: the base model.")] | None = None
    max_tokens: Annotated[int, Meta(ge=1, description="Most tokens to generate per choice.")] | None = None
    temperature: (
        Annotated[float, Meta(ge=0, le=2, description="Below 0.00001 the most likely token is taken.")] | None
    ) = None
    top_p: Annotated[float, Meta(gt=0, le=1, description="Probability mass that is sampled from.")] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES, description="How many choices to generate.")] | None = None
    stream: Annotated[bool, Meta(description="Send the answer as server-sent events.")] | None = None
    stream_options: StreamOptions | None = None
    stop: Annotated[StopString | list[StopString], Meta(description="Up to 16 strings that end a choice.")] | None = (
        None
    )
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[str, Any],
            Meta(
                max_length=MAX_LISTED_IDS,
                description="Token id -> bias, clamped to +-100.",
                extra_json_schema={
                    "propertyNames": {"pattern": "^[0-9]+$"},
                    "additionalProperties": {"type": "number"},
                },
            ),
        ]
        | None
    ) = None
    seed: Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX, description="Makes sampling repeatable.")] | None = None

    top_k: Annotated[int, Meta(ge=-1, description="Most likely tokens sampled from; 0 and -1 disable.")] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1, description="Least share of the top token's probability.")] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100, description="Over prompt and answer.")] | None = None
    min_tokens: Annotated[int, Meta(ge=0, description="Tokens before anything may end a choice.")] | None = None
    ignore_eos: Annotated[bool, Meta(description="Go on past the model's end token.")] | None = None
    stop_token_ids: (
        Annotated[list[TokenId], Meta(max_length=MAX_LISTED_IDS, description="Ids of the vocabulary.")] | None
    ) = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    bad_words: Annotated[list[BadWord], Meta(max_length=MAX_BAD_WORDS)] | None = None
    allowed_token_ids: (
        Annotated[list[TokenId], Meta(description="Ids of the vocabulary; an empty list is none.")] | None
    ) = None
    response_format: ResponseFormat | None = None
    structured_outputs: Annotated[StructuredOutputs, Meta(description="The same, in vLLM's spelling.")] | None = None
    guided_json: Annotated[SchemaValue | str, Meta(description="A JSON Schema, or its text.")] | None = None
    guided_regex: str | None = None
    guided_choice: Annotated[list[str], Meta(extra_json_schema={"minItems": 1})] | None = None
    guided_grammar: Annotated[str, Meta(description="A grammar in Lark.", extra_json_schema=_NOT_EMPTY)] | None = None
    guided_decoding_backend: BackendName | None = None
    guided_whitespace_pattern: WhitespacePattern | None = None
    length_penalty: Annotated[float, OnlyRefused] | None = None
    use_beam_search: Annotated[bool, OnlyRefused] | None = None
    best_of: Annotated[int, Meta(ge=1, le=MAX_CHOICES), OnlyRefused] | None = None
    prompt_logprobs: (
        Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS, description="Likeliest tokens beside each of the prompt's.")]
        | None
    ) = None
    truncate_prompt_tokens: (
        Annotated[
            int,
            Meta(
                ge=-1,
                description="Keep this many prompt tokens; -1: as many as the context has.",
                extra_json_schema={"not": {"const": 0}},
            ),
        ]
        | None
    ) = None
    truncation_side: Literal["left", "right"] | None = None
    add_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    priority: Annotated[int, OnlyRefused] | None = None
    stream_interval: Annotated[int, Meta(ge=1, description="Tokens per streamed chunk.")] | None = None
    cache_salt: (
        Annotated[
            str,
            Meta(
                min_length=1, max_length=MAX_SALT_CHARS, description="Prompts share cached prefixes with its own only."
            ),
        ]
        | None
    ) = None

    @property
    def num_choices(self) -> int:
        """``n`` or 1."""
        return self.n or 1

    @property
    def wants_usage_chunk(self) -> bool:
        """True when the stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)
