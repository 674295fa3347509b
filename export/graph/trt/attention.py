"""Attention of the ``trt`` dialect: positions, masks, rope, cache update and the attention itself.

Every mask is made in the graph from absolute positions, so a runtime passes integers only: ``write_indices`` says at
which cache row each sequence's first token goes, and key row s is visible to a token at position p when s <= p (and
s > p - window). Knows neither weights nor norms.
"""

from __future__ import annotations

import numpy as np
from runtime.package import graph_io

from export.checkpoint.spec import DecoderSpec
from export.graph.dialect import Value
from export.graph.rope import rope_tables
from export.graph.trt.causal_masks import CAUSAL_MASK
from export.graph.writer import DType, GraphWriter

_HIDDEN_SCORE = -30000.0
"""Score of a masked key where the softmax is spelled out: exp of it is 0 in every type, and float16 can hold it."""


class TrtAttention:
    """Emits positions and masks once per graph, and one attention per layer."""

    def __init__(self, spec: DecoderSpec, writer: GraphWriter, dtype: DType, num_positions: int) -> None:
        self._spec, self._writer, self._dtype, self._num_positions = spec, writer, dtype, num_positions
        self._positions: Value | None = None
        self._rows: Value | None = None
        self._masks: dict[int | None, Value] = {}

    def emit(self, layer: int, q: Value, k: Value, v: Value) -> Value:
        """``q`` [B, heads, T, D], ``k`` and ``v`` [B, kv_heads, T, D] before rope -> [B, T, heads * D]."""
        writer, spec, prefix = self._writer, self._spec, f"layers.{layer}."
        rope = spec.layers[layer].rope
        if rope is not None:
            q, k = self._rotated(prefix + "q", q, rope), self._rotated(prefix + "k", k, rope)
        (past_keys, keys), (past_values, values) = graph_io.layer_cache_names(layer)
        self._update(past_keys, keys, k)
        self._update(past_values, values, v)
        mask = self._mask(spec.layers[layer].window)
        if spec.attention_softcap:
            heads = self._spelled_out(prefix, q, keys, values, mask)
        else:
            heads = writer.node(
                "Attention", [q, keys, values, mask], prefix + "attention.heads", scale=spec.softmax_scale
            )
        rows = writer.node("Transpose", [heads], prefix + "attention.rows", perm=[0, 2, 1, 3])
        joined = writer.constant("joined_heads", np.array([0, 0, spec.q_size], np.int64))
        return writer.node("Reshape", [rows, joined], prefix + "attention")

    def _rotated(self, name: str, x: Value, rope: int) -> Value:
        """RotaryEmbedding over the first ``dim`` of each head."""
        writer, spec = self._writer, self._spec.ropes[rope]
        tables = [f"rope.{rope}.cos", f"rope.{rope}.sin"]
        for table, values in zip(tables, rope_tables(spec, self._num_positions), strict=True):
            writer.constant(table, values.astype(self._dtype))
        inputs = [x, *tables, self._token_positions()]
        rotated = spec.dim if spec.dim != self._spec.head_dim else 0  # 0: all of it
        return writer.node("RotaryEmbedding", inputs, name + ".rotated", rotary_embedding_dim=rotated)

    def _update(self, past: str, present: str, rows: Value) -> None:
        """``present``: the cache ``past`` with ``rows`` [B, kv_heads, T, D] written at ``write_indices``, in place."""
        shape = ("batch", self._spec.num_kv_heads, graph_io.CAPACITY, self._spec.head_dim)
        self._writer.input(past, self._dtype, shape)
        self._writer.output(present, self._dtype, shape)
        self._writer.node("TensorScatter", [past, rows, graph_io.WRITE_INDICES], present, axis=2)

    def _token_positions(self) -> Value:
        """Absolute position of every token, int64 [B, T]."""
        if self._positions is None:
            writer = self._writer
            writer.node("Shape", [graph_io.INPUT_IDS], "num_tokens.vector", start=1, end=2)
            count = writer.node("Squeeze", ["num_tokens.vector"], "num_tokens")
            zero, one = writer.constant("zero", np.array(0, np.int64)), writer.constant("one", np.array(1, np.int64))
            offsets = writer.node("Range", [zero, count, one], "token_offsets")
            last = writer.constant("axis_1", np.array([1], np.int64))
            starts = writer.node("Unsqueeze", [graph_io.WRITE_INDICES, last], "row_starts")
            self._positions = writer.node("Add", [starts, offsets], "positions")
        return self._positions

    def _key_rows(self) -> Value:
        """Number of every cache row, int64 [capacity]."""
        if self._rows is None:
            writer = self._writer
            (past, _), _ = graph_io.layer_cache_names(0)
            writer.node("Shape", [past], "num_key_rows.vector", start=2, end=3)
            count = writer.node("Squeeze", ["num_key_rows.vector"], "num_key_rows")
            zero, one = writer.constant("zero", np.array(0, np.int64)), writer.constant("one", np.array(1, np.int64))
            self._rows = writer.node("Range", [zero, count, one], "key_rows")
        return self._rows

    def _mask(self, window: int | None) -> Value:
        """Which keys each token sees: bool [B, 1, T, capacity]."""
        if window is not None and window >= self._num_positions:
            window = None
        if window in self._masks:
            return self._masks[window]
        writer = self._writer
        axes = writer.constant("axes_1_3", np.array([1, 3], np.int64))
        keys = self._key_rows()
        if None not in self._masks:
            tokens = writer.node("Unsqueeze", [self._token_positions(), axes], "positions.column")
            self._masks[None] = writer.node("LessOrEqual", [keys, tokens], CAUSAL_MASK)
        if window is not None:
            name = f"mask.window_{window}"
            width = writer.constant(name + ".width", np.array(window, np.int64))
            oldest = writer.node("Sub", ["positions.column", width], name + ".before")
            recent = writer.node("Greater", [keys, oldest], name + ".recent")
            self._masks[window] = writer.node("And", [self._masks[None], recent], name)
        return self._masks[window]

    def _spelled_out(self, prefix: str, q: Value, keys: Value, values: Value, mask: Value) -> Value:
        """softmax(cap * tanh(q k / cap)) v with a group of query heads per kv head: axes [B, kv_heads, group, T, *]."""
        writer, spec, name = self._writer, self._spec, prefix + "attention."
        cap, group = spec.attention_softcap, spec.num_heads // spec.num_kv_heads
        axis_2 = writer.constant("axis_2", np.array([2], np.int64))
        grouped = writer.constant("grouped", np.array([0, spec.num_kv_heads, group, -1, spec.head_dim], np.int64))
        queries = writer.node("Reshape", [q, grouped], name + "queries")
        wide_keys = writer.node("Unsqueeze", [keys, axis_2], name + "keys")
        columns = writer.node("Transpose", [wide_keys], name + "key_columns", perm=[0, 1, 2, 4, 3])
        # Scaled before the product, so that float16 cannot overflow where tanh would have bounded it.
        factor = writer.constant("score_factor", np.asarray(spec.softmax_scale / cap, self._dtype))
        small = writer.node("Mul", [queries, factor], name + "queries_over_cap")
        ratio = writer.node("MatMul", [small, columns], name + "scores_over_cap")
        bounded = writer.node("Tanh", [ratio], name + "bounded")
        scores = writer.node(
            "Mul", [bounded, writer.constant("score_cap", np.asarray(cap, self._dtype))], name + "scores"
        )
        hidden = writer.constant("hidden_score", np.asarray(_HIDDEN_SCORE, self._dtype))
        wide_mask = writer.node("Unsqueeze", [mask, axis_2], name + "mask")
        seen = writer.node("Where", [wide_mask, scores, hidden], name + "seen")
        weights = writer.node("Softmax", [seen], name + "weights", axis=-1)
        wide_values = writer.node("Unsqueeze", [values, axis_2], name + "values")
        mixed = writer.node("MatMul", [weights, wide_values], name + "mixed")
        flat = writer.constant("all_heads", np.array([0, spec.num_heads, -1, spec.head_dim], np.int64))
        return writer.node("Reshape", [mixed, flat], name + "heads")
