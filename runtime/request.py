"""A request as the engine takes it: token ids in, sampling rules, how many choices. Validated once, at the edge.

Knows nothing of messages, templates, text or HTTP. Everything here is frozen; nothing downstream re-validates.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.adapter import Adapter
from runtime.errors import ContextLengthError
from runtime.token_mask import Constraint

GREEDY_TEMPERATURE = 1e-5
"""Below this temperature sampling is argmax, as in vLLM's ``_SAMPLING_EPS``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How a choice's next token is drawn. Ranges are the contract's (docs/contract.md); the API checks them.

    ``logprobs`` is None when not asked for, else the number of alternatives (0..20) beside the drawn token.
    ``seed`` None takes fresh entropy. ``stop_token_ids`` end a choice like the model's own end tokens and are
    reported as its stop reason; ``ignore_eos`` switches only the model's own off.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    stop_token_ids: frozenset[int] = field(default_factory=frozenset)
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None

    @property
    def is_greedy(self) -> bool:
        """True when the next token is the argmax and no random number is drawn."""
        return self.temperature < GREEDY_TEMPERATURE


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One validated request: ``n`` choices that continue the same prompt.

    ``request_id`` is unique among live requests. ``eos_token_ids`` are the model's own end tokens.
    ``arrival_ns`` is ``time.perf_counter_ns()`` when the request reached the server.
    ``cache_salt`` separates prefix caches: requests reuse the rows of requests with the same salt only.
    ``prompt_logprobs`` is None when the log-probabilities of the prompt's tokens are not asked for, else the number of
    alternatives beside each. With ``sampling.max_tokens`` 0 the prompt is read, and nothing drawn.
    ``constraint`` is what every choice's text must satisfy; None where anything may come. With ``watch_ends`` each
    token tells where in it the text satisfies the constraint, which is what stop strings ask.
    ``adapter`` is what the model is computed with; None: as it is.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    eos_token_ids: frozenset[int]
    n: int = 1
    arrival_ns: int = 0
    cache_salt: str = ""
    prompt_logprobs: int | None = None
    constraint: Constraint | None = None
    watch_ends: bool = False
    adapter: Adapter | None = None

    @property
    def rows_salt(self) -> str:
        """What separates cached rows: ``cache_salt``, and the adapter that they were computed with."""
        # No client's salt can look like another adapter's: a digest holds no line feed, and comes first.
        return self.cache_salt if self.adapter is None else f"\n{self.adapter.digest}\n{self.cache_salt}"


def resolve_max_tokens(
    num_prompt_tokens: int, asked: int | None, max_model_len: int, default: int | None = None
) -> int:
    """Tokens that a choice may generate: ``asked``, else the rest of the context capped by ``default``.

    Raises ContextLengthError with vLLM's wording, which clients parse, when prompt and answer do not fit.
    """
    room = max_model_len - num_prompt_tokens
    wanted = asked if asked is not None else max(1, min(room, default) if default else room)
    if wanted <= room:
        return wanted
    raise ContextLengthError(
        f"This model's maximum context length is {max_model_len} tokens. However, you requested {wanted} output tokens "
        f"and your prompt contains at least {num_prompt_tokens} input tokens, for a total of at least "
        f"{num_prompt_tokens + wanted} tokens. Please reduce the length of the input prompt or the number of requested "
        "output tokens.",
        field="input_tokens",
    )
