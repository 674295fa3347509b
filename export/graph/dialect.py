"""Dialect: how one runtime spells the pieces of a decoder. ``decoder.py`` calls these, in order, and nothing else.

A ``Value`` is the name of a graph value. Axes: B rows, T tokens per row, N rows that want logits, V vocabulary.
Hidden values are [B, T, hidden] until ``select`` and [N, hidden] after it; every method takes both unless it says so.
``name`` arguments are unique per call and name the values made, so graphs are the same from build to build.
"""

from __future__ import annotations

from typing import Protocol

from export.checkpoint.lazy_tensor import LazyTensor

Value = str


class Dialect(Protocol):
    """The pieces of a decoder in one runtime's operators."""

    def embed(self, table: LazyTensor) -> Value:
        """Rows of ``table`` [V, hidden] for the input ids, times the spec's embedding multiplier: [B, T, hidden]."""
        ...

    def norm(self, name: str, x: Value, weight: LazyTensor) -> Value:
        """RMS norm over the last axis, times ``weight`` [hidden]."""
        ...

    def add(self, name: str, x: Value, delta: Value) -> Value:
        """x + delta."""
        ...

    def add_norm(self, name: str, x: Value, delta: Value, weight: LazyTensor) -> tuple[Value, Value]:
        """(x + delta, its RMS norm times ``weight``)."""
        ...

    def linear(self, name: str, x: Value, weight: LazyTensor, bias: LazyTensor | None) -> Value:
        """x @ weight.T + bias for ``weight`` [out, in]; ``name`` chooses its format in the precision plan."""
        ...

    def attention(self, layer: int, qkv: Value, q_norm: LazyTensor | None, k_norm: LazyTensor | None) -> Value:
        """Attention of a layer over its cache, [B, T, heads * head_dim].

        ``qkv`` [B, T, q_size + 2 * kv_size] before norm and rope. Norms, rope, scale, softcap, window and the
        cache's update are the dialect's, from the spec.
        """
        ...

    def glu(self, name: str, gate_up: Value) -> Value:
        """activation(gate) * up for ``gate_up`` [..., 2 * intermediate], gate first."""
        ...

    def select(self, name: str, x: Value, width: int) -> Value:
        """The rows of ``x`` [B, T, width] that want logits: [N, width]."""
        ...

    def logits(self, x: Value, head: LazyTensor | None) -> None:
        """The graph's output: ``x`` [N, hidden] times ``head`` [V, hidden] (None: the embedding), softcapped."""
        ...
