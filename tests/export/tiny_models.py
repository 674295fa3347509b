"""Tiny random checkpoints of every supported architecture, as the Hugging Face folders that people deploy.

The same folders are read by transformers, in tests/golden/make_golden.py, and by the exporter under test.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Tensors = dict[str, npt.NDArray[np.float32]]

VOCAB, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INNER, CONTEXT = 96, 64, 4, 2, 16, 96, 128
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0 + 0.1 * j for j in range(8)],
    "long_factor": [1.5 + 0.5 * j for j in range(8)],
}
# What each architecture's config says beyond the common sizes.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": True},
    "llama-3.1": {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": _LLAMA3_ROPE},
    "llama-bias": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-yarn": {
        "model_type": "llama",
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    },
    "llama-linear": {"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "mistral": {"model_type": "mistral", "sliding_window": 7, "head_dim": HEAD_DIM},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True, "use_sliding_window": False},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "smollm3": {"model_type": "smollm3", "num_hidden_layers": 4, "no_rope_layers": [1, 1, 0, 1], "pad_token_id": 0},
    "phi3": {"model_type": "phi3", "sliding_window": None, "pad_token_id": 0},
    "phi3-longrope": {
        "model_type": "phi3",
        "sliding_window": None,
        "pad_token_id": 0,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "partial_rotary_factor": 0.5,
        "original_max_position_embeddings": 16,
        "rope_scaling": _LONGROPE,
    },
    "gemma2": {
        "model_type": "gemma2",
        "head_dim": HEAD_DIM,
        "sliding_window": 7,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        "hidden_activation": "gelu_pytorch_tanh",
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "head_dim": HEAD_DIM,
        "sliding_window": 7,
        "query_pre_attn_scalar": 24,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "layer_types": ["sliding_attention", "full_attention"],
        "hidden_activation": "gelu_pytorch_tanh",
    },
    "granite": {
        "model_type": "granite",
        "attention_multiplier": 0.2,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.3,
        "logits_scaling": 2.0,
    },
    "olmo2": {"model_type": "olmo2"},
}


def tiny_config(name: str) -> dict[str, Any]:
    """The config.json of an architecture."""
    common: dict[str, Any] = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "intermediate_size": INNER,
        "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    config = common | ARCHITECTURES[name]
    if config["model_type"].startswith("gemma"):
        config["tie_word_embeddings"] = True
    config["architectures"] = [_CLASSES[config["model_type"]]]
    return config


_CLASSES = {
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "granite": "GraniteForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}


def tiny_tensors(config: dict[str, Any]) -> Tensors:
    """Random weights under transformers' names. Norm weights differ from their neutral value, so a lost one shows."""
    random = np.random.default_rng(20260101)
    kind, hidden, inner = config["model_type"], config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim", hidden // config["num_attention_heads"])
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim

    def draw(*shape: int, scale: float = 0.15) -> npt.NDArray[np.float32]:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    def norm(size: int) -> npt.NDArray[np.float32]:
        return draw(size) + np.float32(0 if kind.startswith("gemma") else 1)

    tensors: Tensors = {"model.embed_tokens.weight": draw(config["vocab_size"], hidden, scale=0.5)}
    for layer in range(config["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        matrices = {"self_attn.q_proj": (q, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden)}
        if kind == "phi3":
            matrices = {"self_attn.qkv_proj": (q + 2 * kv, hidden), "mlp.gate_up_proj": (2 * inner, hidden)}
        else:
            matrices |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden)}
        matrices |= {"self_attn.o_proj": (hidden, q), "mlp.down_proj": (hidden, inner)}
        tensors |= {p + key + ".weight": draw(*shape) for key, shape in matrices.items()}
        tensors |= {p + key + ".bias": draw(shape[0]) for key, shape in matrices.items() if _has_bias(config, key)}
        if kind != "olmo2":
            tensors[p + "input_layernorm.weight"] = norm(hidden)
        tensors[p + "post_attention_layernorm.weight"] = norm(hidden)
        if kind.startswith("gemma"):
            tensors[p + "pre_feedforward_layernorm.weight"] = norm(hidden)
        if kind.startswith("gemma") or kind == "olmo2":
            tensors[p + "post_feedforward_layernorm.weight"] = norm(hidden)
        if kind in {"qwen3", "gemma3_text", "olmo2"}:
            sizes = (q, kv) if kind == "olmo2" else (head_dim, head_dim)
            tensors[p + "self_attn.q_norm.weight"], tensors[p + "self_attn.k_norm.weight"] = map(norm, sizes)
    tensors["model.norm.weight"] = norm(hidden)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = draw(config["vocab_size"], hidden, scale=0.3)
    return tensors


def _has_bias(config: dict[str, Any], key: str) -> bool:
    if key.startswith("mlp."):
        return bool(config.get("mlp_bias"))
    return bool(config.get("attention_bias")) or (config["model_type"] == "qwen2" and "o_proj" not in key)


def tiny_tokenizer_json(vocab_size: int = VOCAB) -> str:
    """A byte-level tokenizer with a few single letters, enough to be read and to encode ASCII text."""
    letters = [chr(code) for code in range(33, 33 + vocab_size - 4)] + ["Ġ"]
    vocab = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>", *letters][:vocab_size])}
    flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = [{"id": i, "content": token} | flags for i, token in enumerate(("<unk>", "<s>", "</s>"))]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": special,
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": None,
            "decoder": byte_level,
            "model": {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": "<unk>"},
        }
    )


def write_tiny_folder(
    folder: Path, name: str, *, shards: int = 1, tensors: Tensors | None = None, changes: dict[str, Any] | None = None
) -> Path:
    """A whole checkpoint folder of an architecture. ``changes`` are made to its config."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(name) | (changes or {})
    weights = tiny_tensors(config) if tensors is None else tensors
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tiny_tokenizer_json())
    special = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    place = {key: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, key in enumerate(weights)}
    for file in set(place.values()):
        part = {key: value for key, value in weights.items() if place[key] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return folder


def tiny_input_ids(length: int = 24) -> npt.NDArray[np.int64]:
    """The ids int64 [length] that the golden logits belong to."""
    return np.random.default_rng(7).integers(0, VOCAB, length).astype(np.int64)
