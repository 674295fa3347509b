"""Names, dtypes and shapes of a package graph's inputs and outputs: the agreement between export and runtime.

Axes: B rows in the call, T tokens per row, N logits rows asked for, V vocabulary, L layers,
H kv heads, S cache capacity of a slot in tokens, D head_dim.

| tensor                          | dtype     | shape        | meaning                                             |
|---------------------------------|-----------|--------------|-----------------------------------------------------|
| ``input_ids``                   | int64     | [B, T]       | token ids                                           |
| ``seqlens_k``                   | int32     | [B]          | tokens in the row's cache after this call, minus 1  |
| ``total_sequence_length``       | int32     | []           | max(seqlens_k) + 1                                  |
| ``logits_indices``              | int64     | [N]          | which of the B*T tokens (row-major) get logits      |
| ``past_key_values.{i}.key``     | kv dtype  | [B, H, S, D] | cache before the call, and ``.value``               |
| ``logits``                      | float32   | [N, V]       |                                                     |
| ``present.{i}.key``             | kv dtype  | [B, H, S, D] | the same memory as the past, and ``.value``         |

``logits_indices`` lets one graph serve prefill (the last token, or none before the last chunk), decode (every row),
verification of drafted tokens and the quality report (every token) without computing a head that nobody reads.

A graph with room for adapters (``runtime.package.adapter_room``) has, per layer and projection P that takes them:

| tensor                          | dtype     | shape           | meaning                                             |
|---------------------------------|-----------|-----------------|-----------------------------------------------------|
| ``lora.{i}.{P}.a``              | float32   | [B, K, in, 16]  | each row's matrix, in K blocks of 16 columns        |
| ``lora.{i}.{P}.b``              | float32   | [B, K, 16, out] | the blocks' sum of (x a) b is added to P's output   |

K = 0 adds nothing, for calls in which no row has an adapter.

A graph for TensorRT names S ``capacity``, so that whoever compiles the graph can fix it, and has, in place of
``seqlens_k`` and ``total_sequence_length``:

| tensor                          | dtype     | shape        | meaning                                             |
|---------------------------------|-----------|--------------|-----------------------------------------------------|
| ``write_indices``               | int64     | [B]          | cache row at which the row's first token is written |

Owns names only; knows neither onnx nor onnxruntime.
"""

from __future__ import annotations

INPUT_IDS = "input_ids"
SEQLENS_K = "seqlens_k"
TOTAL_SEQUENCE_LENGTH = "total_sequence_length"
WRITE_INDICES = "write_indices"
LOGITS_INDICES = "logits_indices"
LOGITS = "logits"
ADAPTER_PREFIX = "lora."

CAPACITY = "capacity"
"""The symbolic dimension S of a graph for TensorRT."""


def layer_cache_names(layer: int) -> tuple[tuple[str, str], tuple[str, str]]:
    """(past, present), the cache's input and output, of a layer's keys and of its values."""
    key, value = ((f"past_key_values.{layer}.{kind}", f"present.{layer}.{kind}") for kind in ("key", "value"))
    return key, value


def cache_names(num_layers: int) -> list[tuple[str, str]]:
    """(past, present) of every cache tensor in the graph's order: each layer's keys, then its values."""
    return [pair for layer in range(num_layers) for pair in layer_cache_names(layer)]


def adapter_names(layer: int, projection: str) -> tuple[str, str]:
    """The two inputs that take an adapter's matrices for a projection of a layer."""
    stem = f"{ADAPTER_PREFIX}{layer}.{projection}"
    return stem + ".a", stem + ".b"
