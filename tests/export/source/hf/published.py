"""Folders as they are published: the keys and omissions of 48 configs, on weights small enough to make at once.

``published_configs.json`` has a line per checkpoint: config.json (lists of rope factors are made up, in their length),
the number of values in the weights of its text model, and the number of tokens of its tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.export.tiny_models import Tensors, tiny_tokenizer_json

PUBLISHED: dict[str, dict[str, Any]] = {
    entry["name"]: entry
    for entry in json.loads((Path(__file__).parent / "published_configs.json").read_text(encoding="utf-8"))
}
VOCAB, LAYERS, HEAD = 96, 2, 64
"""Three quarters of a head, as Phi-4-mini rotates, are a multiple of 16 then, which ONNX Runtime needs."""
_TINY = {"hidden_size": 16, "intermediate_size": 24, "shared_intermediate_size": 24, "head_dim": HEAD}
_HEAD_OF_CLASS = {"gemma3_text": 256, "qwen3": 128}


def tiny_published(name: str) -> dict[str, Any]:
    """The config with tiny sizes where it states sizes; what it leaves away stays away."""
    config: dict[str, Any] = deepcopy(PUBLISHED[name]["config"])
    text = config.get("text_config", config)
    if "num_attention_heads" in text:
        kv = 2 if text["num_attention_heads"] == text["num_key_value_heads"] else 1
        text |= {"num_attention_heads": _heads(text, kv), "num_key_value_heads": kv}
    text |= {key: value for key, value in _TINY.items() if key in text} | {"num_hidden_layers": LAYERS}
    text |= {"vocab_size": VOCAB} if "vocab_size" in text else {}
    if "head_dim" not in text and text["model_type"] not in _HEAD_OF_CLASS:
        text["hidden_size"] = HEAD * text["num_attention_heads"]
    for key in ("layer_types", "no_rope_layers"):
        if key in text:
            text[key] = text[key][-LAYERS:]
    if (scaling := text.get("rope_scaling")) and "long_factor" in scaling:
        count = int(HEAD * text.get("partial_rotary_factor", 1.0)) // 2
        text["rope_scaling"] = scaling | {key: scaling[key][:count] for key in ("long_factor", "short_factor")}
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        config |= {key: 2} if config.get(key) is not None else {}
    return config


def _heads(config: dict[str, Any], kv: int) -> int:
    return int(config["num_attention_heads"] * kv // config["num_key_value_heads"])


def published_folder(folder: Path, name: str) -> Path:
    """A folder of that config with random weights and a tokenizer that ends before or behind them, as there."""
    folder.mkdir(parents=True)
    config, entry = tiny_published(name), PUBLISHED[name]
    stated = entry["config"].get("text_config", entry["config"])
    rows = config.get("text_config", config).get("vocab_size", 262_208)
    spare = stated.get("vocab_size", rows) - entry["tokens"]
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads(tiny_tokenizer_json(VOCAB - 3 if spare > 0 else VOCAB))
    if spare < 0:
        flags = {key: value for key, value in tokenizer["added_tokens"][0].items() if key not in {"id", "content"}}
        tokenizer["added_tokens"].append({"id": rows, "content": "<image_soft_token>"} | flags)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": None, "eos_token": {"content": "</s>"}}))
    save_file(_weights(config, rows), folder / "model.safetensors")
    return folder


def _weights(config: dict[str, Any], rows: int) -> Tensors:
    """Tensors by transformers' names, in the sizes that the config states, or Gemma 3's class where it does not."""
    text = config.get("text_config", config)
    root = "language_model.model." if text is not config else "model."
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    heads, kv = text.get("num_attention_heads", 8), text.get("num_key_value_heads", 4)
    head = text.get("head_dim") or _HEAD_OF_CLASS.get(text["model_type"]) or hidden // heads
    random = np.random.default_rng(0)
    tensors: Tensors = {root + "embed_tokens.weight": random.standard_normal((rows, hidden), np.float32)}
    for layer in range(LAYERS):
        for key, shape in _layer(text["model_type"], hidden, inner, heads * head, kv * head, head):
            tensors[f"{root}layers.{layer}.{key}"] = random.standard_normal(shape, np.float32) * np.float32(0.1)
    tensors[root + "norm.weight"] = np.ones(hidden, np.float32)
    tied = text["model_type"].startswith("gemma") or text["model_type"] == "smollm3"
    if not text.get("tie_word_embeddings", tied):
        tensors[root.removesuffix("model.") + "lm_head.weight"] = np.ones((rows, hidden), np.float32)
    return tensors


def _layer(kind: str, hidden: int, inner: int, q: int, kv: int, head: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    fused_mlp = {"phi3": "mlp.gate_up_proj", "granitemoehybrid": "shared_mlp.input_linear"}
    if kind == "phi3":
        yield "self_attn.qkv_proj.weight", (q + 2 * kv, hidden)
    else:
        for name, size in (("q", q), ("k", kv), ("v", kv)):
            yield f"self_attn.{name}_proj.weight", (size, hidden)
            if kind == "qwen2":
                yield f"self_attn.{name}_proj.bias", (size,)
    yield "self_attn.o_proj.weight", (hidden, q)
    if kind in fused_mlp:
        yield fused_mlp[kind] + ".weight", (2 * inner, hidden)
    else:
        yield "mlp.gate_proj.weight", (inner, hidden)
        yield "mlp.up_proj.weight", (inner, hidden)
    down = "shared_mlp.output_linear" if kind == "granitemoehybrid" else "mlp.down_proj"
    yield down + ".weight", (hidden, inner)
    if kind in {"qwen3", "gemma3_text", "olmo2"}:
        sizes = (q, kv) if kind == "olmo2" else (head, head)
        yield "self_attn.q_norm.weight", sizes[:1]
        yield "self_attn.k_norm.weight", sizes[1:]
    is_gemma = kind.startswith("gemma")
    norms = [] if kind == "olmo2" else ["input_layernorm"]
    norms += ["post_attention_layernorm"] + ["pre_feedforward_layernorm"] * is_gemma
    norms += ["post_feedforward_layernorm"] * (is_gemma or kind == "olmo2")
    for norm in norms:
        yield norm + ".weight", (hidden,)
