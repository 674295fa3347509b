"""DecoderSpec: the switches in which dense decoder-only transformers differ, and nothing else.

``export.source`` fills it in; decoder, reference and the dialects read it. It knows no file format, no tensor values
and no graph operator. Adding an architecture means mapping its config to these fields.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from export.errors import SourceError

Activation = Literal["silu", "gelu_tanh", "gelu"]
QkNorm = Literal["none", "head", "full"]
NormPlacement = Literal["pre", "post", "sandwich"]

_MAX_STRETCH = 1e6
"""Of a rope's frequencies, and of every other factor; far beyond every model, and all that follows is still finite."""


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context.

    ``linear`` divides every frequency by ``factor``; ``llama3`` does so smoothly for long wavelengths (Llama 3.1,
    section 4.3 of its model card's reference code); ``yarn`` is Peng et al. 2023 (arXiv:2309.00071), with
    ``attention_factor`` multiplied into both tables; ``factors`` divides frequency j by ``factors[j]`` (GGUF's
    ``rope_freqs``); ``longrope`` (Ding et al. 2024) does so by ``long_factors`` in tables longer than
    ``original_max_positions`` and by ``factors`` in shorter ones.
    """

    kind: Literal["linear", "llama3", "yarn", "factors", "longrope"]
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary position embedding (Su et al. 2021) over the first ``dim`` of each head, halves layout."""

    theta: float
    dim: int
    scaling: RopeScaling | None = None


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What varies between the layers of one model.

    ``window`` is the number of keys a token sees, itself included (None: all). ``rope`` indexes
    ``DecoderSpec.ropes`` (None: this layer knows no positions).
    """

    window: int | None = None
    rope: int | None = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A dense decoder: x += attention(norm(x)); x += mlp(norm(x)), with the variations below.

    ``norm_placement``: ``pre`` normalizes what enters a block (Llama), ``post`` what leaves it (OLMo 2), ``sandwich``
    both (Gemma 2 and 3). ``qk_norm``: RMS norm of queries and keys per ``head`` or over the ``full`` projection.
    ``attention_scale`` multiplies q.k; ``attention_softcap`` and ``logits_softcap`` are c * tanh(x / c), 0 for none.
    ``residual_multiplier`` scales what each block adds, ``logits_multiplier`` the logits before the softcap.
    """

    architecture: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    tied_head: bool
    layers: tuple[LayerSpec, ...]
    ropes: tuple[RopeSpec, ...]
    activation: Activation = "silu"
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: QkNorm = "none"
    norm_placement: NormPlacement = "pre"
    attention_scale: float = 0.0
    attention_softcap: float = 0.0
    logits_softcap: float = 0.0
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_multiplier: float = 1.0

    @property
    def q_size(self) -> int:
        """Width of the query projection."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of the key projection, and of the value projection."""
        return self.num_kv_heads * self.head_dim

    @property
    def softmax_scale(self) -> float:
        """What multiplies q.k: ``attention_scale``, or 1/sqrt(head_dim) when that is 0."""
        return self.attention_scale or 1.0 / math.sqrt(self.head_dim)


def check_spec(spec: DecoderSpec, name: str) -> None:
    """Raise SourceError, which begins with ``name``, if sizes and factors of a configuration contradict each other."""
    if spec.num_heads % spec.num_kv_heads:
        raise SourceError(f"{name}: {spec.num_heads} heads cannot share {spec.num_kv_heads} key heads evenly")
    if spec.head_dim % 2:
        raise SourceError(f"{name}: heads of {spec.head_dim} dimensions, an even number is needed")
    _check_factors(spec, name)
    for rope in spec.ropes:
        if rope.dim % 2 or not 2 <= rope.dim <= spec.head_dim:
            raise SourceError(f"{name}: heads of {spec.head_dim} cannot be rotated over {rope.dim} dimensions")
        if not rope.theta > 1:
            raise SourceError(f"{name}: a rope base of {rope.theta:g}, it must be above 1")
        if rope.scaling is not None:
            _check_scaling(rope.scaling, rope.dim // 2, name)


def _check_factors(spec: DecoderSpec, name: str) -> None:
    if not 0 < spec.norm_eps <= 1:
        raise SourceError(f"{name}: norms add {spec.norm_eps:g} below the root, it must be above 0 and at most 1")
    factors = {
        "attention": spec.softmax_scale,
        "embedding": spec.embedding_multiplier,
        "residual": spec.residual_multiplier,
        "logits": spec.logits_multiplier,
        "attention's softcap": spec.attention_softcap or 1.0,
        "logits' softcap": spec.logits_softcap or 1.0,
    }
    for what, factor in factors.items():
        if not 1 / _MAX_STRETCH <= factor <= _MAX_STRETCH:
            raise SourceError(
                f"{name}: {what} scaled by {factor:g}; {1 / _MAX_STRETCH:g} to {_MAX_STRETCH:g} is possible"
            )


def _check_scaling(scaling: RopeScaling, num_factors: int, name: str) -> None:
    for factors in (scaling.factors, scaling.long_factors):
        if factors and len(factors) != num_factors:
            raise SourceError(f"{name}: {len(factors)} rope factors, {num_factors} are needed")
    if scaling.kind in {"yarn", "longrope"} and scaling.original_max_positions < 2:
        raise SourceError(
            f"{name}: {scaling.kind} from a context of {scaling.original_max_positions}, at least 2 is needed"
        )
    if not scaling.low_freq_factor < scaling.high_freq_factor:
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        raise SourceError(f"{name}: rope's low frequency factor {low:g} is not below its high one, {high:g}")
    numbers = (
        scaling.factor,
        scaling.attention_factor,
        scaling.beta_fast,
        scaling.beta_slow,
        *scaling.factors,
        *scaling.long_factors,
    )
    for number in numbers:
        if not 1 / _MAX_STRETCH <= number <= _MAX_STRETCH:
            raise SourceError(
                f"{name}: rope is scaled by {number:g}; {1 / _MAX_STRETCH:g} to {_MAX_STRETCH:g} is possible"
            )


def weight_shapes(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every tensor that the decoder reads; matrices are [out, in].

    Names: ``embedding``, ``head`` (absent when tied), ``final_norm`` and per layer ``layers.{i}.`` + ``q k v o gate up
    down``, the same + ``_bias``, ``q_norm``, ``k_norm``, ``attention_norm``, ``mlp_norm`` (before a block),
    ``attention_post_norm``, ``mlp_post_norm`` (after it). Norm weights are effective ones: Gemma's 1 is added already.
    """
    shapes: dict[str, tuple[int, ...]] = {"embedding": (spec.vocab_size, spec.hidden_size)}
    for i in range(spec.num_layers):
        shapes |= {f"layers.{i}.{name}": shape for name, shape in _layer_shapes(spec).items()}
    shapes["final_norm"] = (spec.hidden_size,)
    if not spec.tied_head:
        shapes["head"] = (spec.vocab_size, spec.hidden_size)
    return shapes


def _layer_shapes(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
    hidden, inner = spec.hidden_size, spec.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "q": (spec.q_size, hidden),
        "k": (spec.kv_size, hidden),
        "v": (spec.kv_size, hidden),
        "o": (hidden, spec.q_size),
        "gate": (inner, hidden),
        "up": (inner, hidden),
        "down": (hidden, inner),
    }
    biased = {"q": spec.qkv_bias, "k": spec.qkv_bias, "v": spec.qkv_bias, "o": spec.output_bias}
    biased |= dict.fromkeys(("gate", "up", "down"), spec.mlp_bias)
    shapes |= {f"{name}_bias": shapes[name][:1] for name, has_bias in biased.items() if has_bias}
    if spec.qk_norm != "none":
        per_head = spec.qk_norm == "head"
        shapes["q_norm"] = (spec.head_dim,) if per_head else (spec.q_size,)
        shapes["k_norm"] = (spec.head_dim,) if per_head else (spec.kv_size,)
    if spec.norm_placement != "post":
        shapes |= {"attention_norm": (hidden,), "mlp_norm": (hidden,)}
    if spec.norm_placement != "pre":
        shapes |= {"attention_post_norm": (hidden,), "mlp_post_norm": (hidden,)}
    return shapes
