"""Which values sampling takes where a request names none: the package's ``generation_config.json`` and its ranges.

The export writes the file, the server reads it; recipes and the server's settings spell the same values. Ranges are a
request's own (docs/contract.md). Knows no request.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from runtime.package.limits import TokenId


class SamplingDefaults(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Each is None where nothing is said: then OpenAI's value counts, which switches the rule off."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None

    def given(self) -> dict[str, float]:
        """The values that are said, by name."""
        values = {name: getattr(self, name) for name in SamplingDefaults.__struct_fields__}
        return {name: value for name, value in values.items() if value is not None}


class GenerationConfig(SamplingDefaults, frozen=True, kw_only=True):
    """The file. ``eos_token_id`` is checked only: the manifest says which tokens end an answer."""

    max_new_tokens: Annotated[int, Meta(ge=1)] | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
