"""A decoder in plain NumPy that reads like the papers: the ground truth that graphs are compared with.

One sequence, no cache, float64. Slow on purpose: nothing is fused, folded or reordered. Knows no graph.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.spec import DecoderSpec
from export.graph.rope import rope_tables

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def reference_logits(checkpoint: Checkpoint, input_ids: I64) -> F64:
    """Logits float64 [T, V] of every token of ``input_ids`` int64 [T]."""
    spec = checkpoint.spec
    embedding = _weight(checkpoint, "embedding")
    x = embedding[input_ids] * spec.embedding_multiplier
    for layer in range(spec.num_layers):
        x = _block(checkpoint, layer, x, "attention")
        x = _block(checkpoint, layer, x, "mlp")
    hidden = _rms_norm(x, _weight(checkpoint, "final_norm"), spec.norm_eps)
    head = embedding if spec.tied_head else _weight(checkpoint, "head")
    return _softcap(hidden @ head.T * spec.logits_multiplier, spec.logits_softcap)


def _block(checkpoint: Checkpoint, layer: int, x: F64, kind: str) -> F64:
    """x + post_norm(block(norm(x))), each norm only where the spec has it. x is [T, hidden]."""
    spec, prefix = checkpoint.spec, f"layers.{layer}."
    hidden = x
    if spec.norm_placement != "post":
        hidden = _rms_norm(x, _weight(checkpoint, f"{prefix}{kind}_norm"), spec.norm_eps)
    out = _attention(checkpoint, layer, hidden) if kind == "attention" else _mlp(checkpoint, prefix, hidden)
    if spec.norm_placement != "pre":
        out = _rms_norm(out, _weight(checkpoint, f"{prefix}{kind}_post_norm"), spec.norm_eps)
    return x + out * spec.residual_multiplier


def _attention(checkpoint: Checkpoint, layer: int, x: F64) -> F64:
    """Grouped-query attention (Ainslie et al. 2023): head h reads key head h // (heads / kv heads)."""
    spec, prefix = checkpoint.spec, f"layers.{layer}."
    q = _heads(_qk_norm(checkpoint, prefix + "q", _linear(checkpoint, prefix + "q", x, spec.qkv_bias)), spec)
    k = _heads(_qk_norm(checkpoint, prefix + "k", _linear(checkpoint, prefix + "k", x, spec.qkv_bias)), spec)
    v = _heads(_linear(checkpoint, prefix + "v", x, spec.qkv_bias), spec)
    rope = spec.layers[layer].rope
    if rope is not None:
        cos, sin = rope_tables(spec.ropes[rope], x.shape[0])
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    repeat = spec.num_heads // spec.num_kv_heads
    k, v = np.repeat(k, repeat, axis=0), np.repeat(v, repeat, axis=0)
    scores = _softcap(q @ k.swapaxes(1, 2) * spec.softmax_scale, spec.attention_softcap)  # [heads, T, T]
    distance = np.arange(x.shape[0])[:, None] - np.arange(x.shape[0])[None, :]
    visible = (distance >= 0) & (distance < (spec.layers[layer].window or x.shape[0]))
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    attended = (weights @ v).swapaxes(0, 1).reshape(x.shape[0], spec.q_size)
    return _linear(checkpoint, prefix + "o", attended, spec.output_bias)


def _mlp(checkpoint: Checkpoint, prefix: str, x: F64) -> F64:
    """Gated MLP (Shazeer 2020): down(activation(gate(x)) * up(x))."""
    spec = checkpoint.spec
    gate = _linear(checkpoint, prefix + "gate", x, spec.mlp_bias)
    up = _linear(checkpoint, prefix + "up", x, spec.mlp_bias)
    return _linear(checkpoint, prefix + "down", _activation(gate, spec) * up, spec.mlp_bias)


def _activation(x: F64, spec: DecoderSpec) -> F64:
    match spec.activation:
        case "silu":
            return x / (1.0 + np.exp(-x))
        case "gelu_tanh":
            return 0.5 * x * (1.0 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        case "gelu":
            return 0.5 * x * (1.0 + _erf(x / math.sqrt(2)))


def _erf(x: F64) -> F64:
    """Error function by its Maclaurin series where that is exact enough, 1 beyond (|x| > 5: 1 - erf < 2e-12)."""
    bounded = np.clip(x, -5, 5)
    term, total = bounded.copy(), bounded.copy()
    for n in range(1, 120):
        term = term * -(bounded**2) / n
        total += term / (2 * n + 1)
    return np.where(np.abs(x) > 5, np.sign(x), 2 / np.sqrt(np.pi) * total)


def _weight(checkpoint: Checkpoint, name: str) -> F64:
    return checkpoint.tensor(name).numpy().astype(np.float64)


def _linear(checkpoint: Checkpoint, name: str, x: F64, has_bias: bool) -> F64:
    out = x @ _weight(checkpoint, name).T
    return out + _weight(checkpoint, name + "_bias") if has_bias else out


def _rms_norm(x: F64, weight: F64, eps: float) -> F64:
    """Zhang and Sennrich 2019: x / rms(x) * weight over the last axis."""
    rms: F64 = np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    return x / rms * weight


def _qk_norm(checkpoint: Checkpoint, name: str, x: F64) -> F64:
    spec = checkpoint.spec
    if spec.qk_norm == "none":
        return x
    weight = _weight(checkpoint, name + "_norm")
    if spec.qk_norm == "full":
        return _rms_norm(x, weight, spec.norm_eps)
    return _rms_norm(x.reshape(x.shape[0], -1, spec.head_dim), weight, spec.norm_eps).reshape(x.shape)


def _heads(x: F64, spec: DecoderSpec) -> F64:
    """[T, heads * head_dim] -> [heads, T, head_dim]."""
    return x.reshape(x.shape[0], -1, spec.head_dim).swapaxes(0, 1)


def _rotate(x: F64, cos: npt.NDArray[np.float32], sin: npt.NDArray[np.float32]) -> F64:
    """Rotate pairs (j, j + dim / 2) of each head's first dims. Tables [T, dim / 2], x [heads, T, head_dim]."""
    half = cos.shape[1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def _softcap(x: F64, cap: float) -> F64:
    return cap * np.tanh(x / cap) if cap else x
