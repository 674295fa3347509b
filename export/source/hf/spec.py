"""``config.json`` -> DecoderSpec: one small function per ``model_type``, from transformers' ``modeling_*.py``.

Knows configs, no tensors. To add an architecture, add a function here and, if it names tensors in a new way, a table
in ``checkpoint``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from export.checkpoint.spec import Activation, DecoderSpec, LayerSpec, check_spec
from export.errors import UnsupportedError
from export.source.hf.class_defaults import with_class_defaults
from export.source.hf.json_object import JsonObject
from export.source.hf.rope import rope_from_config

_MAX_LAYERS = 1_024
_TEXT_HALVES = {"gemma3": "gemma3_text", "gemma3_conditional": "gemma3_text", "mistral3": "mistral"}
"""Multimodal architectures -> what their ``text_config`` describes."""
_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def spec_from_config(config: JsonObject) -> DecoderSpec:
    """The spec of a config. Raises UnsupportedError for unknown architectures, SourceError for unusable values."""
    model_type = config.text("model_type")
    if model_type in _TEXT_HALVES and (inner := config.object("text_config")):
        config, model_type = inner, inner.text("model_type") or _TEXT_HALVES[model_type]
    if model_type not in _VARIANTS:
        raise _unknown(config, str(model_type))
    config = with_class_defaults(config, model_type)
    spec = _VARIANTS[model_type](config, _base_spec(config, model_type))
    check_spec(spec, config.name)
    return spec


def supported_model_types() -> tuple[str, ...]:
    """Every ``model_type`` that is read."""
    return tuple(sorted(_VARIANTS))


def _unknown(config: JsonObject, model_type: str) -> UnsupportedError:
    return UnsupportedError(
        f"{config.name}: architecture {model_type!r} is not supported; those that are: "
        f"{', '.join(supported_model_types())}; 'powertrain export --via optimum' takes others"
    )


def _base_spec(config: JsonObject, model_type: str) -> DecoderSpec:
    """What every architecture states the same way: a Llama without biases."""
    num_layers, hidden, heads = (
        config.size(key) for key in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    if num_layers > _MAX_LAYERS:
        raise config.error("num_hidden_layers", f"at most {_MAX_LAYERS} layers")
    head_dim = config.size("head_dim", max(1, hidden // heads))
    name = config.text("hidden_activation") or config.text("hidden_act") or "silu"
    if name not in _ACTIVATIONS:
        raise UnsupportedError(f"{config.name}: activation {name!r} is not supported; {', '.join(_ACTIVATIONS)} are")
    parameters = config.object("rope_parameters") or config.object("rope_scaling")
    theta = config.number("rope_theta", 10_000.0)
    return DecoderSpec(
        architecture=model_type,
        num_layers=num_layers,
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=config.size("num_key_value_heads", heads),
        head_dim=head_dim,
        intermediate_size=config.size("intermediate_size"),
        vocab_size=config.size("vocab_size"),
        max_positions=config.size("max_position_embeddings"),
        norm_eps=config.number("rms_norm_eps"),
        tied_head=config.flag("tie_word_embeddings", default=False),
        layers=tuple(LayerSpec() for _ in range(num_layers)),
        ropes=(rope_from_config(config, head_dim, parameters=_flat(parameters), theta=theta),),
        activation=_ACTIVATIONS[name],
    )


def _flat(parameters: JsonObject | None) -> JsonObject | None:
    """Rope parameters of full attention where a config states them per kind of layer."""
    if parameters is not None and "full_attention" in parameters:
        return parameters.object("full_attention")
    return parameters


def _windows(config: JsonObject, spec: DecoderSpec, is_sliding: Callable[[int], bool]) -> tuple[LayerSpec, ...]:
    """Layers with ``sliding_window`` where ``layer_types`` says so, or ``is_sliding`` if it is silent."""
    kinds = config.values.get("layer_types")
    if kinds is None:
        kinds = ["sliding_attention" if is_sliding(i) else "full_attention" for i in range(spec.num_layers)]
    if not isinstance(kinds, list) or len(kinds) != spec.num_layers:
        raise config.error("layer_types", f"a list of {spec.num_layers} kinds")
    if unknown := {str(kind) for kind in kinds} - {"sliding_attention", "full_attention"}:
        raise UnsupportedError(f"{config.name}: layers of kind {sorted(unknown)[0]!r} are not supported")
    window = config.size("sliding_window", spec.max_positions)
    used = window if window < spec.max_positions else None
    return tuple(
        replace(layer, window=used if kind == "sliding_attention" else None)
        for layer, kind in zip(spec.layers, kinds, strict=True)
    )


def _biased(config: JsonObject, spec: DecoderSpec) -> DecoderSpec:
    bias = config.flag("attention_bias", default=False)
    return replace(spec, qkv_bias=bias, output_bias=bias, mlp_bias=config.flag("mlp_bias", default=False))


def _mistral(config: JsonObject, spec: DecoderSpec) -> DecoderSpec:
    return replace(spec, layers=_windows(config, spec, lambda _layer: True))


def _qwen2(config: JsonObject, spec: DecoderSpec) -> DecoderSpec:
    first = config.number("max_window_layers")
    sliding = config.flag("use_sliding_window", default=False)
    layers = _windows(config, spec, lambda layer: layer >= first) if sliding else spec.layers
    return replace(spec, qkv_bias=True, layers=layers)


def _qwen3(config: JsonObject, spec: DecoderSpec) -> DecoderSpec:
    spec = replace(_qwen2(config, spec), qk_norm="head")
    bias = config.flag("attention_bias", default=False)
    return replace(spec, qkv_bias=bias, output_bias=bias)


def _smollm3(config: JsonObject, spec: DecoderSpec) -> DecoderSpec:
    interval = config.size("no_rope_layer_interval", 4)
    uses_rope = config.values.get("no_rope_layers") or [int((i + 1) % interval != 0) for i in range(spec.num_layers)]
    if not isinstance(uses_rope, list) or len(uses_rope) != spec.num_layers or not all(u in (0, 1) for u in uses_rope):
        raise config.error("no_rope_layers", f"a list of {spec.num_layers} zeros and ones")
    sliding = config.flag("use_sliding_window", default=False)
    layers = _windows(config, spec, lambda _layer: False) if sliding else spec.layers
    pairs = zip(layers, uses_rope, strict=True)
    return replace(
        _biased(config, spec), layers=tuple(replace(layer, rope=0 if used else None) for layer, used in pairs)
    )


def _granite(config: JsonObject, spec: DecoderSpec) -> DecoderSpec:
    return replace(
        _biased(config, spec),
        attention_scale=config.positive("attention_multiplier", 1.0),
        embedding_multiplier=config.number("embedding_multiplier", 1.0),
        residual_multiplier=config.number("residual_multiplier", 1.0),
        logits_multiplier=1.0 / config.positive("logits_scaling", 1.0),
    )


def _granite_hybrid(config: JsonObject, spec: DecoderSpec) -> DecoderSpec:
    """Granite 4 without experts and state space layers: a Granite 3 whose MLP is the one that experts would share."""
    if config.number("num_local_experts", 0) > 0:
        raise UnsupportedError(
            f"{config.name}: a mixture of {config.values['num_local_experts']} experts; dense decoders are supported"
        )
    kinds = config.values.get("layer_types") or ["linear_attention"] * spec.num_layers
    if not isinstance(kinds, list) or len(kinds) != spec.num_layers:
        raise config.error("layer_types", f"a list of {spec.num_layers} kinds")
    if unknown := {str(kind) for kind in kinds} - {"attention", "full_attention"}:
        raise UnsupportedError(f"{config.name}: layers of kind {sorted(unknown)[0]!r:.100} are not supported")
    rope = 0 if config.text("position_embedding_type") == "rope" else None
    return replace(
        _granite(config, spec),
        intermediate_size=config.size("shared_intermediate_size"),
        mlp_bias=False,
        layers=tuple(LayerSpec(rope=rope) for _ in kinds),
    )


def _olmo2(config: JsonObject, spec: DecoderSpec) -> DecoderSpec:
    return replace(_biased(config, spec), qk_norm="full", norm_placement="post", mlp_bias=False)


def _gemma(config: JsonObject, spec: DecoderSpec) -> DecoderSpec:
    if config.flag("use_bidirectional_attention", default=False):
        raise UnsupportedError(
            f"{config.name}: attention to later tokens; decoders, which see earlier ones, are supported"
        )
    bias = config.flag("attention_bias", default=False)
    return replace(
        spec,
        activation=_ACTIVATIONS.get(config.text("hidden_activation") or "gelu_pytorch_tanh", spec.activation),
        norm_placement="sandwich",
        qkv_bias=bias,
        output_bias=bias,
        embedding_multiplier=spec.hidden_size**0.5,
        attention_scale=config.positive("query_pre_attn_scalar", 256) ** -0.5,
        attention_softcap=config.number("attn_logit_softcapping", 0.0),
        logits_softcap=config.number("final_logit_softcapping", 0.0),
    )


def _gemma2(config: JsonObject, spec: DecoderSpec) -> DecoderSpec:
    return replace(_gemma(config, spec), layers=_windows(config, spec, lambda layer: layer % 2 == 0))


def _gemma3(config: JsonObject, spec: DecoderSpec) -> DecoderSpec:
    interval = config.size("sliding_window_pattern", 6)
    parameters = config.object("rope_parameters")
    local = parameters.object("sliding_attention") if parameters else None
    theta = config.number("rope_local_base_freq", 10_000.0)
    ropes = (*spec.ropes, rope_from_config(config, spec.head_dim, parameters=local, theta=theta))
    layers = _windows(config, spec, lambda layer: (layer + 1) % interval != 0)
    kinds = config.values.get("layer_types") or []
    slides = [kind == "sliding_attention" for kind in kinds] or [
        (i + 1) % interval != 0 for i in range(spec.num_layers)
    ]
    with_rope = (replace(layer, rope=1 if slide else 0) for layer, slide in zip(layers, slides, strict=True))
    return replace(_gemma(config, spec), qk_norm="head", ropes=ropes, layers=tuple(with_rope))


_VARIANTS: dict[str, Callable[[JsonObject, DecoderSpec], DecoderSpec]] = {
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "granite": _granite,
    "granitemoehybrid": _granite_hybrid,
    "llama": _biased,
    "mistral": _mistral,
    "olmo2": _olmo2,
    "phi3": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "smollm3": _smollm3,
}
