"""GGUF metadata -> DecoderSpec: one small function per architecture, from llama.cpp's loaders (src/llama-model.cpp).

Knows the keys of the metadata and which layers of an architecture use windows or skip rope. Reads no tensor values
except the optional table of rope factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from export.checkpoint.spec import DecoderSpec, LayerSpec, RopeScaling, RopeSpec, check_spec
from export.errors import SourceError, UnsupportedError
from export.source.gguf.file import GgufFile

_GEMMA2_27B_LAYERS, _GEMMA3_27B_LAYERS = 46, 62
_GEMMA3_LOCAL_THETA = 10_000.0
_MAX_LAYERS, _MAX_SIZE, _MAX_NUMBER = 1_024, 1 << 24, 1e30


class _Keys:
    """Typed look-ups of ``{architecture}.{key}``."""

    def __init__(self, file: GgufFile, architecture: str) -> None:
        self._file, self._architecture = file, architecture

    def get(self, key: str) -> Any:  # noqa: ANN401 - a metadata value has any of the format's types
        return self._file.metadata.get(f"{self._architecture}.{key}")

    def count(self, key: str, default: int | None = None) -> int:
        value = self.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 0 < value <= _MAX_SIZE:
            raise self._error(key, f"a whole number up to {_MAX_SIZE}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.get(key)
        if value is None:
            return default
        if type(value) not in {int, float} or not abs(value) < _MAX_NUMBER:
            raise self._error(key, "a finite number")
        return float(value)

    def positive(self, key: str, default: float) -> float:
        value = self.number(key, default)
        if value < 1 / _MAX_NUMBER:
            raise self._error(key, "a number above 0")
        return value

    def _error(self, key: str, wanted: str) -> SourceError:
        value = f"{self.get(key)!r:.200}"
        return SourceError(
            f"{self._file.path.name}: metadata {self._architecture}.{key} is {value}, {wanted} is needed"
        )


def spec_from_gguf(file: GgufFile) -> DecoderSpec:
    """The spec of a file. Raises UnsupportedError for other architectures, SourceError for unusable values."""
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in _VARIANTS:
        raise UnsupportedError(
            f"{file.path.name}: architecture {architecture!r:.200} is not read from GGUF; "
            f"those read are {', '.join(sorted(_VARIANTS))}"
        )
    keys = _Keys(file, architecture)
    spec = _VARIANTS[architecture](file, keys, _base_spec(file, keys, architecture))
    check_spec(spec, file.path.name)
    return spec


def _base_spec(file: GgufFile, keys: _Keys, architecture: str) -> DecoderSpec:
    """What every architecture states the same way: a Llama."""
    if "token_embd.weight" not in file.tensors:
        raise SourceError(f"{file.path.name}: tensor 'token_embd.weight' is missing; the file is incomplete")
    num_layers, hidden, num_heads = (
        keys.count("block_count"),
        keys.count("embedding_length"),
        keys.count("attention.head_count"),
    )
    if num_layers > _MAX_LAYERS:
        raise SourceError(f"{file.path.name}: {num_layers} layers, at most {_MAX_LAYERS} are read")
    head_dim = keys.count("attention.key_length", max(1, hidden // num_heads))
    rope_dim = keys.count("rope.dimension_count", head_dim)
    rope = RopeSpec(keys.positive("rope.freq_base", 10_000.0), rope_dim, _scaling(file, keys, rope_dim))
    return DecoderSpec(
        architecture=architecture,
        num_layers=num_layers,
        hidden_size=hidden,
        num_heads=num_heads,
        num_kv_heads=keys.count("attention.head_count_kv", num_heads),
        head_dim=head_dim,
        intermediate_size=keys.count("feed_forward_length"),
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        max_positions=keys.count("context_length"),
        norm_eps=keys.positive("attention.layer_norm_rms_epsilon", 1e-5),
        tied_head="output.weight" not in file.tensors,
        layers=tuple(LayerSpec() for _ in range(num_layers)),
        ropes=(rope,),
        qkv_bias="blk.0.attn_q.bias" in file.tensors or "blk.0.attn_qkv.bias" in file.tensors,
        output_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_down.bias" in file.tensors,
    )


def _scaling(file: GgufFile, keys: _Keys, rope_dim: int) -> RopeScaling | None:
    if "rope_freqs.weight" in file.tensors:
        return RopeScaling("factors", factors=_factors(file, "rope_freqs.weight", rope_dim))
    kind = keys.get("rope.scaling.type")
    factor = keys.positive("rope.scaling.factor", 1.0)
    if kind is None or kind == "none" or factor == 1.0:
        return None
    if kind == "linear":
        return RopeScaling("linear", factor=factor)
    raise UnsupportedError(
        f"{file.path.name}: rope scaling {kind!r:.200} is not read from GGUF; 'linear' and a rope_freqs tensor are"
    )


def _factors(file: GgufFile, name: str, rope_dim: int) -> tuple[float, ...]:
    """A table with a factor for each of the rope's frequencies. Raises SourceError before it reads a larger one."""
    tensor = file.tensor(name)
    if tensor.shape != (rope_dim // 2,):
        raise SourceError(
            f"{file.path.name}: tensor {name!r} has shape {list(tensor.shape)}, "
            f"a rope over {rope_dim} dimensions needs [{rope_dim // 2}]"
        )
    return tuple(tensor.numpy().tolist())


def _llama(file: GgufFile, keys: _Keys, spec: DecoderSpec) -> DecoderSpec:
    if keys.get("expert_count"):
        raise UnsupportedError(
            f"{file.path.name}: a mixture of {keys.get('expert_count')!r:.200} experts; dense decoders are supported"
        )
    return spec


def _qwen3(_file: GgufFile, _keys: _Keys, spec: DecoderSpec) -> DecoderSpec:
    return replace(spec, qk_norm="head")


def _smollm3(_file: GgufFile, _keys: _Keys, spec: DecoderSpec) -> DecoderSpec:
    return replace(spec, layers=tuple(LayerSpec(rope=None if (i + 1) % 4 == 0 else 0) for i in range(spec.num_layers)))


def _granite(file: GgufFile, keys: _Keys, spec: DecoderSpec) -> DecoderSpec:
    return replace(
        _llama(file, keys, spec),
        attention_scale=keys.number("attention.scale", 0.0),
        embedding_multiplier=keys.number("embedding_scale", 1.0),
        residual_multiplier=keys.number("residual_scale", 1.0),
        logits_multiplier=1.0 / keys.positive("logit_scale", 1.0),
    )


def _olmo2(_file: GgufFile, _keys: _Keys, spec: DecoderSpec) -> DecoderSpec:
    return replace(spec, qk_norm="full", norm_placement="post")


def _gemma2(_file: GgufFile, keys: _Keys, spec: DecoderSpec) -> DecoderSpec:
    window = keys.count("attention.sliding_window", 4096)
    per_head = spec.hidden_size / spec.num_heads if spec.num_layers == _GEMMA2_27B_LAYERS else spec.head_dim
    return replace(
        spec,
        activation="gelu_tanh",
        norm_placement="sandwich",
        embedding_multiplier=spec.hidden_size**0.5,
        attention_scale=per_head**-0.5,
        attention_softcap=keys.number("attn_logit_softcapping", 50.0),
        logits_softcap=keys.number("final_logit_softcapping", 30.0),
        layers=tuple(LayerSpec(window=window if i % 2 == 0 else None) for i in range(spec.num_layers)),
    )


def _gemma3(_file: GgufFile, keys: _Keys, spec: DecoderSpec) -> DecoderSpec:
    window = keys.count("attention.sliding_window", 1024)
    local = RopeSpec(_GEMMA3_LOCAL_THETA, spec.ropes[0].dim)
    theta = keys.positive("rope.freq_base", 1_000_000.0)
    per_head = spec.hidden_size / spec.num_heads if spec.num_layers == _GEMMA3_27B_LAYERS else spec.head_dim
    return replace(
        spec,
        activation="gelu_tanh",
        norm_placement="sandwich",
        qk_norm="head",
        embedding_multiplier=spec.hidden_size**0.5,
        attention_scale=per_head**-0.5,
        ropes=(replace(spec.ropes[0], theta=theta), local),
        layers=tuple(LayerSpec(window, 1) if (i + 1) % 6 else LayerSpec(None, 0) for i in range(spec.num_layers)),
    )


def _phi3(file: GgufFile, keys: _Keys, spec: DecoderSpec) -> DecoderSpec:
    window = keys.count("attention.sliding_window", _MAX_SIZE) if keys.get("attention.sliding_window") else _MAX_SIZE
    used = window if window < spec.max_positions else None
    if "rope_factors_long.weight" in file.tensors:
        rope = spec.ropes[0]
        spec = replace(spec, ropes=(replace(rope, scaling=_longrope(file, keys, rope.dim, spec.max_positions)),))
    return replace(spec, layers=tuple(LayerSpec(window=used) for _ in range(spec.num_layers)))


def _longrope(file: GgufFile, keys: _Keys, rope_dim: int, max_positions: int) -> RopeScaling:
    original = keys.count("rope.scaling.original_context_length", max_positions)
    stretch = max_positions / original
    default = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 < original else 1.0
    return RopeScaling(
        "longrope",
        original_max_positions=original,
        attention_factor=keys.number("rope.scaling.attn_factor", default),
        factors=_factors(file, "rope_factors_short.weight", rope_dim),
        long_factors=_factors(file, "rope_factors_long.weight", rope_dim),
    )


def _plain(_file: GgufFile, _keys: _Keys, spec: DecoderSpec) -> DecoderSpec:
    return spec


_VARIANTS: dict[str, Callable[[GgufFile, _Keys, DecoderSpec], DecoderSpec]] = {
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "granite": _granite,
    "llama": _llama,
    "olmo2": _olmo2,
    "phi3": _phi3,
    "qwen2": _plain,
    "qwen3": _qwen3,
    "smollm3": _smollm3,
}
